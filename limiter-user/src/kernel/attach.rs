//! Programs onto interfaces, through links that outlive the agent.
//!
//! A link that an earlier agent pinned gets the new program by `BPF_LINK_UPDATE`: not one packet
//! passes unfiltered. An interface without one is attached once, natively where the driver can. An
//! XDP program of somebody else is never replaced.

use std::{fmt, fs, path::PathBuf};

use aya::programs::{
    Xdp, XdpMode,
    links::{FdLink, PinnedLink},
    xdp::XdpLink,
};
use nix::errno::Errno;

use super::{InterfaceState, KernelError, load::Programs, pins::Pins};
use crate::policy::kernel::Attach;

/// How XDP runs on an interface.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum AttachMode {
    /// In the driver, before a socket buffer is made.
    Native,
    /// After that: any interface can, at a price.
    Generic,
}

impl AttachMode {
    /// Stable label.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Native => "native",
            Self::Generic => "generic",
        }
    }
}

/// One interface with the program on it.
#[derive(Debug)]
pub(super) struct Attachment {
    /// Which counters are its.
    pub(super) slot: u32,
    pub(super) state: InterfaceState,
}

/// The name of a pinned link. The kernel tells neither mode nor interface of a link to everybody,
/// and BPF file systems allow no dots, which interface names have.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct LinkName {
    pub(super) slot: u32,
    pub(super) mode: AttachMode,
    pub(super) index: u32,
}

impl LinkName {
    pub(super) fn parse(name: &str) -> Option<Self> {
        let mut parts = name.strip_prefix("link-")?.split('-');
        let slot = parts.next()?.parse().ok()?;
        let mode = match parts.next()? {
            "native" => AttachMode::Native,
            "generic" => AttachMode::Generic,
            _ => return None,
        };
        let index = parts.next()?.parse().ok()?;
        parts.next().is_none().then_some(Self { slot, mode, index })
    }
}

impl fmt::Display for LinkName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "link-{}-{}-{}", self.slot, self.mode.label(), self.index)
    }
}

/// Puts each program on its interface; interfaces that are no longer wanted are let go.
pub(super) fn attach(
    programs: Programs,
    pins: &Pins,
    wanted: Attach,
) -> Result<Vec<Attachment>, KernelError> {
    let earlier = pins.links();
    let mut attachments = Vec::new();
    let attached = attach_each(programs, pins, wanted, &earlier, &mut attachments);
    let current: Vec<PathBuf> = attachments.iter().map(|one| pin_of(one, pins)).collect();
    if let Err(error) = attached {
        // What this start attached goes with it; what an earlier agent attached stays.
        for (attachment, path) in attachments.iter().zip(&current) {
            if !attachment.state.taken_over {
                drop(fs::remove_file(path));
            }
        }
        return Err(error);
    }
    for (_, path) in earlier {
        if !current.contains(&path) {
            drop(fs::remove_file(path));
        }
    }
    Ok(attachments)
}

fn pin_of(attachment: &Attachment, pins: &Pins) -> PathBuf {
    let InterfaceState { mode, index, .. } = attachment.state;
    pins.path(&LinkName { slot: attachment.slot, mode, index }.to_string())
}

fn attach_each(
    programs: Programs,
    pins: &Pins,
    wanted: Attach,
    earlier: &[(LinkName, PathBuf)],
    attachments: &mut Vec<Attachment>,
) -> Result<(), KernelError> {
    for mut loaded in programs.interfaces {
        let (name, index, slot) = (loaded.name.clone(), loaded.index, loaded.slot);
        let program = loaded.program()?;
        let taken = earlier
            .iter()
            .filter(|(link, _)| link.index == index && is_wanted(link.mode, wanted))
            .find_map(|(link, path)| take_over(program, *link, path, pins, slot).ok());
        let taken_over = taken.is_some();
        let mode = match taken {
            Some(mode) => mode,
            None => attach_anew(program, &name, index, slot, pins, wanted)?,
        };
        let state = InterfaceState { name, index, mode, taken_over };
        attachments.push(Attachment { slot, state });
    }
    Ok(())
}

const fn is_wanted(mode: AttachMode, wanted: Attach) -> bool {
    match wanted {
        Attach::Auto => true,
        Attach::Native => matches!(mode, AttachMode::Native),
        Attach::Generic => matches!(mode, AttachMode::Generic),
    }
}

/// Swaps the program of a pinned link and pins it in this generation.
///
/// Pinned first and swapped then: whatever fails in between, some pin still holds the link.
fn take_over(
    program: &mut Xdp,
    link: LinkName,
    path: &std::path::Path,
    pins: &Pins,
    slot: u32,
) -> Result<AttachMode, KernelError> {
    let failed = |error: &dyn std::error::Error| KernelError::system("taking a link over", error);
    let target = pins.path(&LinkName { slot, ..link }.to_string());
    if target != path {
        let pinned = PinnedLink::from_pin(path).map_err(|error| failed(&error))?;
        drop(FdLink::from(pinned).pin(&target).map_err(|error| failed(&error))?);
    }
    let pinned = PinnedLink::from_pin(&target).map_err(|error| failed(&error))?;
    let swapped = XdpLink::try_from(FdLink::from(pinned))
        .map_err(|error| failed(&error))
        .and_then(|link| program.attach_to_link(link).map_err(|error| failed(&error)));
    match swapped {
        Ok(_) => Ok(link.mode),
        Err(error) => {
            // A link whose interface is gone: useless, also to the next agent.
            drop(fs::remove_file(&target));
            Err(error)
        }
    }
}

fn attach_anew(
    program: &mut Xdp,
    name: &str,
    index: u32,
    slot: u32,
    pins: &Pins,
    wanted: Attach,
) -> Result<AttachMode, KernelError> {
    let attempts: &[AttachMode] = match wanted {
        Attach::Auto => &[AttachMode::Native, AttachMode::Generic],
        Attach::Native => &[AttachMode::Native],
        Attach::Generic => &[AttachMode::Generic],
    };
    let mut last = None;
    for &mode in attempts {
        let flags = match mode {
            AttachMode::Native => XdpMode::Driver,
            AttachMode::Generic => XdpMode::Skb,
        };
        match program.attach_to_if_index(index, flags) {
            Ok(id) => {
                let link = program
                    .take_link(id)
                    .map_err(|error| KernelError::system("taking the link", &error))?;
                let link = FdLink::try_from(link)
                    .map_err(|error| KernelError::system("XDP links need kernel 5.9", &error))?;
                let path = pins.path(&LinkName { slot, mode, index }.to_string());
                link.pin(&path).map_err(|error| KernelError::system("pinning the link", &error))?;
                return Ok(mode);
            }
            Err(error) => last = Some(explain(name, mode, &error)),
        }
    }
    Err(last.unwrap_or_else(|| KernelError::Host(format!("cannot attach to {name}"))))
}

/// What stands in the way, in words.
fn explain(name: &str, mode: AttachMode, error: &(dyn std::error::Error + 'static)) -> KernelError {
    let errno = errno(error);
    let mode = mode.label();
    KernelError::Host(match errno {
        Some(Errno::EBUSY | Errno::EEXIST) => format!(
            "interface {name} already has an XDP program that is not this agent's; it is not \
             replaced (`ip link show {name}` names it)"
        ),
        Some(Errno::EOPNOTSUPP | Errno::EINVAL) => {
            format!("interface {name} cannot run XDP in {mode} mode")
        }
        Some(Errno::ENODEV) => format!("interface {name} does not exist"),
        Some(Errno::EPERM) => {
            format!("attaching to {name} is not permitted: CAP_NET_ADMIN and CAP_BPF are needed")
        }
        _ => return KernelError::system(format_args!("attaching to {name} ({mode})"), error),
    })
}

/// The system error at the end of a chain.
fn errno(error: &(dyn std::error::Error + 'static)) -> Option<Errno> {
    let mut current = Some(error);
    while let Some(error) = current {
        if let Some(io) = error.downcast_ref::<std::io::Error>() {
            return io.raw_os_error().map(Errno::from_raw);
        }
        current = error.source();
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn link_names_round_trip_and_others_are_ignored() {
        let name = LinkName { slot: 3, mode: AttachMode::Generic, index: 17 };
        assert_eq!(LinkName::parse(&name.to_string()), Some(name));
        for other in ["BANS", "link-1", "link-1-fast-2", "link-1-native-2-3", "link-x-native-2"] {
            assert_eq!(LinkName::parse(other), None, "{other}");
        }
    }
}
