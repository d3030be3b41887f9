//! When SYNs are answered with cookies: the stack's own counters and the policy go in; out come the
//! word that the packet program reads and, where it must, `net.ipv4.tcp_syncookies`.
//!
//! With the usual value 1 nothing of the host is changed: the kernel makes a cookie, for itself and
//! for the packet program, only for a listener whose queue is full, and everybody else keeps the
//! options of TCP. Only 0 is raised, to 1, and only while there is a flood. `always` needs 2.

mod flood;
mod sending;
mod sysctl;

use std::path::Path;

pub(super) use self::sysctl::boot;
use self::{
    flood::{Counters, Watch},
    sending::Sending,
    sysctl::Setting,
};
use super::{Agent, problems::Problem};
use crate::{
    clock,
    events::Lifecycle,
    kernel::Kernel,
    policy::{Mode, kernel::SynCookies},
};

/// Whether cookies are on, and why.
#[derive(Debug)]
pub(super) struct Cookies {
    /// `Err`: why the setting cannot be had.
    setting: Result<Setting, String>,
    watch: Watch,
    /// Whether the program was told to answer; `None`: not known.
    answers: Option<bool>,
    /// The policy that was last acted on.
    wanted: Option<SynCookies>,
    /// Somebody else has set the setting: it stays until the policy changes.
    is_his: bool,
    sending: Sending,
    /// The interface by which answers did not leave: none are made until the policy changes.
    lost: Option<String>,
}

/// What became of one look.
#[derive(Debug)]
struct News {
    /// A flood began or ended.
    flood: Option<bool>,
    /// What works no more, or again.
    works: Result<(), String>,
}

impl Cookies {
    /// With what an earlier agent left behind: a flood that it saw is believed for a while, so that
    /// a restart does not leave the listeners alone.
    pub(super) fn open(state: &Path) -> Self {
        let setting = Setting::open(state).map_err(|error| error.to_string());
        let is_lent = setting.as_ref().is_ok_and(Setting::is_lent);
        Self {
            watch: if is_lent { Watch::flooded(clock::monotonic_ns()) } else { Watch::default() },
            setting,
            answers: None,
            wanted: None,
            is_his: false,
            sending: Sending::default(),
            lost: None,
        }
    }

    /// Puts the setting back as it was found.
    pub(super) fn restore(&mut self) -> Result<(), String> {
        match &mut self.setting {
            Ok(setting) => setting.restore().map(|_| ()).map_err(|error| error.to_string()),
            // Nothing was changed by this agent, and what an earlier one did cannot be told.
            Err(_) => Ok(()),
        }
    }

    fn look(&mut self, wanted: SynCookies, kernel: Option<&Kernel>) -> News {
        if self.wanted != Some(wanted) {
            self.wanted = Some(wanted);
            self.is_his = false;
            self.lost = None;
        }
        let Some(kernel) = kernel else {
            self.answers = None;
            return News { flood: None, works: self.restore() };
        };
        if wanted == SynCookies::Off {
            self.watch = Watch::default();
            // First the program, so that it asks for nothing that the stack refuses.
            self.switch(kernel, false);
            return News { flood: None, works: self.restore() };
        }
        let was_flooded = self.watch.is_flooded();
        let works = self.act(wanted, kernel).and_then(|()| self.look_at_sending(kernel));
        let is_flooded = self.watch.is_flooded();
        News { flood: (was_flooded != is_flooded).then_some(is_flooded), works }
    }

    /// `Auto` or `Always`.
    fn act(&mut self, wanted: SynCookies, kernel: &Kernel) -> Result<(), String> {
        let text = |error: std::io::Error| error.to_string();
        let setting = self.setting.as_mut().map_err(|problem| problem.clone())?;
        if setting.was_taken_over().map_err(text)? {
            self.is_his = true;
            log::warn!("net.ipv4.tcp_syncookies was changed by somebody else: it stays as it is");
        }
        let value = setting.value().map_err(text)?;
        let counters = Counters::read().map_err(text)?;
        let is_flooded = self.watch.look(clock::monotonic_ns(), counters, value);
        let is_always = wanted == SynCookies::Always;
        let least = if is_always { 2 } else { u8::from(is_flooded) };
        let set = if self.is_his {
            let works = value > 0 || least == 0;
            works.then_some(()).ok_or_else(|| {
                "net.ipv4.tcp_syncookies was set to 0 by somebody else: listeners that are flooded \
                 get no SYN cookies"
                    .to_owned()
            })
        } else if least == 0 {
            setting.restore().map(|_| ()).map_err(text)
        } else if value < least {
            setting.lend(least).map_err(text)
        } else {
            Ok(())
        };
        self.switch(kernel, least > 0 && self.lost.is_none());
        set
    }

    fn switch(&mut self, kernel: &Kernel, on: bool) {
        if self.answers == Some(on) {
            return;
        }
        kernel.set_syn_cookies(on);
        self.answers = Some(on);
        if on {
            self.sending = Sending::begin(&kernel.answers()).unwrap_or_default();
        }
    }

    /// Answers that do not leave are worse than none: without them the stack makes its own.
    fn look_at_sending(&mut self, kernel: &Kernel) -> Result<(), String> {
        if self.answers == Some(true)
            && let Ok(Some(interface)) = self.sending.look(&kernel.answers())
        {
            self.lost = Some(interface);
            self.switch(kernel, false);
        }
        match &self.lost {
            None => Ok(()),
            Some(interface) => Err(format!(
                "answers to SYNs do not leave by {interface}, so the stack gives its own SYN \
                 cookies: its driver cannot send from XDP (of a veth pair the other end needs GRO \
                 or XDP; kernel.attach = \"generic\" always can)"
            )),
        }
    }
}

impl Agent {
    /// Ten times a second: a flood fills a queue within milliseconds.
    pub(super) fn watch_floods(&self) {
        let News { flood, works } = {
            let mut inner = self.inner.borrow_mut();
            let inner = &mut *inner;
            let wanted = match &inner.policy.kernel {
                // An answer is not undone, so that monitoring gives none.
                Some(policy) if policy.mode == Mode::Enforce => policy.syn_cookies,
                Some(_) | None => SynCookies::Off,
            };
            inner.cookies.look(wanted, inner.kernel.as_ref())
        };
        if let Some(began) = flood {
            let detail = if began { "begun" } else { "over" };
            self.lifecycle(Lifecycle::SynFlood, detail);
        }
        self.judge(Problem::SynCookies, works);
    }
}

/// Puts `net.ipv4.tcp_syncookies` back as an agent that is gone has found it; a sentence about it,
/// if there is something to tell.
pub(super) fn restore_left_behind(state: &Path) -> std::io::Result<Option<String>> {
    let mut setting = Setting::open(state)?;
    if let Some(namespace) = setting.lent_elsewhere() {
        return Ok(Some(format!(
            "net.ipv4.tcp_syncookies of network namespace {namespace} is not restored from here: \
             run this inside of it"
        )));
    }
    let restored = setting.restore()?;
    let value = setting.value();
    Ok(match value {
        Ok(value) if restored => Some(format!("net.ipv4.tcp_syncookies is {value} again")),
        _ => None,
    })
}
