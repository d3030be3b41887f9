//! The file of the access log: opened, watched and rotated here, written by the proxy.
//!
//! The proxy gets a descriptor that can only append; what it writes between a rotation and the next
//! descriptor is in the rotated file.

use std::{
    io,
    os::fd::{AsFd as _, OwnedFd},
};

use super::{Agent, problems::Problem};
use crate::{
    events::file::{Open, open_file, rotate},
    link::ToProxy,
    policy::http::AccessLogPolicy,
};

/// What is open.
#[derive(Default)]
pub(super) struct AccessLog {
    open: Option<(AccessLogPolicy, Open)>,
}

impl AccessLog {
    /// A copy for the proxy; opens the file if it is not.
    fn descriptor(&mut self, policy: Option<&AccessLogPolicy>) -> io::Result<Option<OwnedFd>> {
        let Some(policy) = policy else {
            self.open = None;
            return Ok(None);
        };
        if self.open.as_ref().is_none_or(|(of, _)| of.path != policy.path) {
            self.open = Some((policy.clone(), open_file(&policy.path)?));
        }
        let open = self.open.as_ref().map(|(_, open)| open.file.as_fd().try_clone_to_owned());
        open.transpose()
    }

    /// Whether the file has grown beyond its bound and was moved away, or is not there.
    fn needs_another(&mut self, policy: Option<&AccessLogPolicy>) -> io::Result<bool> {
        let Some(policy) = policy else {
            return Ok(false);
        };
        let Some((_, open)) = &self.open else {
            return Ok(true);
        };
        let size = open.file.metadata()?.len();
        if open.size.is_none() || policy.rotate_bytes == 0 || size <= policy.rotate_bytes {
            return Ok(false);
        }
        self.open = None;
        rotate(&policy.path, policy.keep)?;
        Ok(true)
    }
}

impl Agent {
    /// What the proxy is to write to, as the policy in force says.
    pub(super) fn access_log_file(&self) -> Option<OwnedFd> {
        let opened = {
            let mut inner = self.inner.borrow_mut();
            let inner = &mut *inner;
            let policy = inner.policy.http.as_ref().and_then(|http| http.access_log.as_ref());
            let opened = inner.access_log.descriptor(policy);
            opened.map_err(|error| unusable(policy, &error))
        };
        match opened {
            Ok(file) => {
                self.judge(Problem::AccessLog, Ok(()));
                file
            }
            Err(sentence) => {
                self.judge(Problem::AccessLog, Err(sentence));
                None
            }
        }
    }

    /// Opens the file anew (after SIGHUP, for logrotate).
    pub(super) fn reopen_access_log(&self) {
        let is_open = self.inner.borrow_mut().access_log.open.take().is_some();
        if is_open {
            self.tell_proxy(ToProxy::AccessLog);
        }
    }

    /// Rotates the file where it has grown too large, and tries again one that cannot be had.
    pub(super) fn keep_access_log(&self) {
        let looked = {
            let mut inner = self.inner.borrow_mut();
            let inner = &mut *inner;
            let policy = inner.policy.http.as_ref().and_then(|http| http.access_log.as_ref());
            let looked = inner.access_log.needs_another(policy);
            looked.map_err(|error| unusable(policy, &error))
        };
        match looked {
            Ok(true) => self.tell_proxy(ToProxy::AccessLog),
            Ok(false) => {}
            Err(sentence) => self.judge(Problem::AccessLog, Err(sentence)),
        }
    }
}

fn unusable(policy: Option<&AccessLogPolicy>, error: &io::Error) -> String {
    let path = policy.map(|policy| policy.path.display().to_string()).unwrap_or_default();
    format!("the access log {path} cannot be written: {error}")
}
