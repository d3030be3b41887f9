//! A program onto one interface, through a link that outlives the agent.
//!
//! A link that an earlier agent pinned gets the new program by `BPF_LINK_UPDATE`: not one packet
//! passes unfiltered. An interface without one is attached once, natively where the driver can. An
//! XDP program of somebody else is never replaced.

use std::{
    fmt, fs,
    path::{Path, PathBuf},
};

use aya::programs::{
    Xdp, XdpMode,
    links::{FdLink, PinnedLink},
    xdp::XdpLink,
};
use nix::errno::Errno;

use super::{
    KernelError,
    foreign::ProgramNames,
    netlink::{self, XdpOn},
    pins::Pins,
};
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

    /// A policy that asks for this mode and no other.
    pub(super) const fn only(self) -> Attach {
        match self {
            Self::Native => Attach::Native,
            Self::Generic => Attach::Generic,
        }
    }
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

/// The interface that a program is for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place<'a> {
    pub(super) name: &'a str,
    pub(super) index: u32,
    pub(super) slot: u32,
}

/// How an attachment came about.
#[derive(Debug)]
pub(super) struct Attached {
    pub(super) mode: AttachMode,
    pub(super) taken_over: bool,
    /// Id of the program that now decides there.
    pub(super) program: u32,
    /// Why the mode is generic although native was tried.
    pub(super) note: Option<String>,
}

/// Puts a loaded program on its interface: through the link that an earlier agent pinned, or anew.
pub(super) fn attach(
    program: &mut Xdp,
    place: Place<'_>,
    wanted: Attach,
    pins: &Pins,
    names: &ProgramNames,
) -> Result<Attached, KernelError> {
    let id = program
        .info()
        .map_err(|error| KernelError::system("asking for the program's id", &error))?
        .id();
    for (link, path) in pins.links() {
        if link.index != place.index || !is_wanted(link.mode, wanted) {
            continue;
        }
        match take_over(program, id, place, link, &path, pins) {
            Ok(()) => {
                let note = (link.mode == AttachMode::Generic && wanted == Attach::Auto)
                    .then(|| "an earlier agent could not attach natively".to_owned());
                return Ok(Attached { mode: link.mode, taken_over: true, program: id, note });
            }
            Err(error) => log::warn!("{} is not used: {error}", path.display()),
        }
    }
    // What stands in the way is named before anything is tried.
    refuse_foreign(place, names)?;
    attach_anew(program, id, place, wanted, pins)
}

/// Whether a link of this mode is what the policy asks for.
pub(super) const fn is_wanted(mode: AttachMode, wanted: Attach) -> bool {
    match wanted {
        Attach::Auto => true,
        Attach::Native => matches!(mode, AttachMode::Native),
        Attach::Generic => matches!(mode, AttachMode::Generic),
    }
}

/// Fails, naming it, if a program is on the interface that no link of this agent's put there.
pub(super) fn refuse_foreign(place: Place<'_>, names: &ProgramNames) -> Result<(), KernelError> {
    match netlink::xdp_on(place.index) {
        Ok(Some(found)) => Err(foreign(place.name, found, names)),
        _ => Ok(()),
    }
}

/// Swaps the program of a pinned link and pins it in this generation.
///
/// Pinned first and swapped then: whatever fails in between, some pin still holds the link.
fn take_over(
    program: &mut Xdp,
    id: u32,
    place: Place<'_>,
    link: LinkName,
    path: &Path,
    pins: &Pins,
) -> Result<(), KernelError> {
    let failed = |error: &dyn std::error::Error| KernelError::system("taking a link over", error);
    let target = link_path(pins, place.slot, link.mode, link.index);
    // The kernel tells what is pinned there; a name alone is not believed.
    let found = PinnedLink::from_pin(path)
        .map(FdLink::from)
        .map_err(|error| failed(&error))
        .and_then(|link| XdpLink::try_from(link).map_err(|error| failed(&error)));
    if let Err(error) = found {
        drop(fs::remove_file(path));
        return Err(KernelError::Pins(format!("not an XDP link; removed ({error})")));
    }
    if target != path {
        let pinned = PinnedLink::from_pin(path).map_err(|error| failed(&error))?;
        drop(fs::remove_file(&target));
        drop(FdLink::from(pinned).pin(&target).map_err(|error| failed(&error))?);
    }
    let pinned = PinnedLink::from_pin(&target).map_err(|error| failed(&error))?;
    let swapped = XdpLink::try_from(FdLink::from(pinned))
        .map_err(|error| failed(&error))
        .and_then(|link| program.attach_to_link(link).map_err(|error| failed(&error)));
    let is_here = || match netlink::xdp_on(place.index) {
        Ok(Some(found)) if found.program == id => Ok(()),
        // An interface of the same index in another namespace, say.
        Ok(_) => Err(KernelError::Pins(format!("its link is not on {}", place.name))),
        Err(error) => Err(failed(&error)),
    };
    let taken = swapped.map(drop).and_then(|()| is_here());
    if taken.is_err() {
        // A link whose interface is gone: useless, also to the next agent.
        drop(fs::remove_file(&target));
        drop(fs::remove_file(path));
    }
    taken
}

/// Where the link of an interface is pinned.
pub(super) fn link_path(pins: &Pins, slot: u32, mode: AttachMode, index: u32) -> PathBuf {
    pins.path(&LinkName { slot, mode, index }.to_string())
}

fn attach_anew(
    program: &mut Xdp,
    id: u32,
    place: Place<'_>,
    wanted: Attach,
    pins: &Pins,
) -> Result<Attached, KernelError> {
    let attempts: &[AttachMode] = match wanted {
        Attach::Auto => &[AttachMode::Native, AttachMode::Generic],
        Attach::Native => &[AttachMode::Native],
        Attach::Generic => &[AttachMode::Generic],
    };
    let Place { name, index, slot } = place;
    let mut note = None;
    let mut last = None;
    for &mode in attempts {
        let flags = match mode {
            AttachMode::Native => XdpMode::Driver,
            AttachMode::Generic => XdpMode::Skb,
        };
        match program.attach_to_if_index(index, flags) {
            Ok(id_of_link) => {
                let link = program
                    .take_link(id_of_link)
                    .map_err(|error| KernelError::system("taking the link", &error))?;
                let link = FdLink::try_from(link)
                    .map_err(|error| KernelError::system("XDP links need kernel 5.9", &error))?;
                let path = link_path(pins, slot, mode, index);
                drop(fs::remove_file(&path));
                link.pin(&path).map_err(|error| KernelError::system("pinning the link", &error))?;
                return Ok(Attached { mode, taken_over: false, program: id, note });
            }
            Err(error) => {
                note = Some(why_not_native(&error));
                last = Some(explain(name, mode, &error));
            }
        }
    }
    Err(last.unwrap_or_else(|| KernelError::Host(format!("cannot attach to {name}"))))
}

fn why_not_native(error: &(dyn std::error::Error + 'static)) -> String {
    match errno(error) {
        Some(Errno::EOPNOTSUPP) => "its driver has no native XDP".to_owned(),
        Some(errno) => format!("its driver refused native XDP: {}", errno.desc()),
        None => format!("native XDP failed: {error}"),
    }
}

/// Somebody else's program, named, with the way to take it off.
fn foreign(name: &str, found: XdpOn, names: &ProgramNames) -> KernelError {
    let program = names.describe(found.program);
    let (mode, flag) = match found.mode {
        AttachMode::Native => ("native", "xdpdrv"),
        AttachMode::Generic => ("generic", "xdpgeneric"),
    };
    KernelError::Host(format!(
        "interface {name} already has an XDP program that is not this agent's: {program} (id {}, \
         {mode}); it is not replaced. End the program that holds it, or take it off with `ip link \
         set dev {name} {flag} off`",
        found.program,
    ))
}

/// What stands in the way, in words.
fn explain(name: &str, mode: AttachMode, error: &(dyn std::error::Error + 'static)) -> KernelError {
    let mode = mode.label();
    KernelError::Host(match errno(error) {
        Some(Errno::EBUSY | Errno::EEXIST) => format!(
            "interface {name} already has an XDP program that is not this agent's; it is not \
             replaced (`ip link show {name}` names it)"
        ),
        Some(Errno::EOPNOTSUPP | Errno::EINVAL) => {
            format!("interface {name} cannot run XDP in {mode} mode")
        }
        Some(Errno::ERANGE | Errno::E2BIG) => {
            format!("interface {name} cannot run XDP in {mode} mode with its MTU and offloads")
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
