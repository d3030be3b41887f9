//! The kernel: its version, what it can do, and whether the program of this version loads.

use nix::sys::utsname::uname;

use super::{Finding, State};
use crate::kernel::probe;

const AREA: &str = "kernel";

/// The oldest kernel with everything that is needed (`bpf_xdp_get_buff_len`).
const OLDEST: (u32, u32) = (5, 18);

/// `missing`: what it means where the packet half cannot work.
pub(super) fn look(missing: State, findings: &mut Vec<Finding>) {
    version(missing, findings);
    let lacking = probe::missing_capabilities();
    if !lacking.is_empty() {
        let found = format!("missing: {}", lacking.join(", "));
        let advice = "run this as root to have the kernel looked at; the agent needs them too";
        findings.push(Finding::ok(AREA, "capabilities", found).but(missing, advice));
        return;
    }
    findings.push(Finding::ok(AREA, "capabilities", "all"));
    for probed in probe::probe() {
        let state = if probed.needed { missing } else { State::Off };
        let advice = format!("without it there is no {}: use a newer kernel", probed.serves);
        findings.push(match probed.found {
            Ok(true) => Finding::ok(AREA, probed.name, "yes"),
            Ok(false) => Finding::ok(AREA, probed.name, "no").but(state, advice),
            Err(error) => Finding::ok(AREA, probed.name, error).but(state, advice),
        });
    }
    let check = "program of this version";
    findings.push(match probe::try_program() {
        Ok(count) => Finding::ok(AREA, check, format!("loads, {count} instructions verified")),
        Err(error) => {
            let advice = "the packet half cannot work here: use a newer kernel";
            Finding::ok(AREA, check, error.to_string()).but(missing, advice)
        }
    });
}

fn version(missing: State, findings: &mut Vec<Finding>) {
    let release = uname().map_or_else(
        |error| error.to_string(),
        |name| name.release().to_string_lossy().into_owned(),
    );
    let is_old = numbers(&release).is_none_or(|found| found < OLDEST);
    let finding = Finding::ok(AREA, "version", release);
    let (major, minor) = OLDEST;
    findings.push(if is_old {
        finding.but(missing, format!("the packet half needs {major}.{minor} or newer"))
    } else {
        finding
    });
}

/// Major and minor.
fn numbers(release: &str) -> Option<(u32, u32)> {
    let mut parts = release.split(|character: char| !character.is_ascii_digit());
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_are_compared_by_number() {
        assert_eq!(numbers("6.18.44-fc-v669"), Some((6, 18)));
        assert_eq!(numbers("5.4-rc1"), Some((5, 4)));
        assert_eq!(numbers("next"), None);
        assert!(numbers("5.4.0") < Some(OLDEST) && numbers("10.0") > Some(OLDEST));
    }
}
