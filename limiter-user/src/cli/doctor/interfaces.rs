//! The interfaces that the policy names: what their drivers can do, without trying it (attaching
//! natively takes some links down for seconds), and whether somebody else is there already.

use std::{collections::BTreeSet, fs, path::Path};

use super::{AgentArgs, Finding, State};
use crate::{
    admin::{client::Target, view::StatusView},
    agent::host::Selected,
    kernel::{LinkFacts, ProgramNames, XdpFeatures, link_facts, xdp_features},
    policy::{
        KernelPolicy,
        kernel::{Attach, InterfaceSelection},
    },
};

const AREA: &str = "interfaces";

/// Larger packets need several buffers: what a page holds beside the headroom of XDP.
const ONE_BUFFER_BYTES: u32 = 3_498;

/// What is known of drivers that can do it under conditions.
const CONDITIONS: [(&str, &str); 5] = [
    (
        "mlx5_core",
        "with an MTU above 3498 natively only with `ethtool --set-priv-flags IF rx_striding_rq off`: \
         else headers are not where they are read, and packets are malformed",
    ),
    ("virtio_net", "natively only with a queue pair to spare for each CPU and guest offloads off"),
    ("ena", "natively only with at most half of the channels: `ethtool -L`"),
    ("veth", "its peer must compute checksums itself: `ethtool -K PEER tx off`"),
    ("ixgbe", "attaching natively takes the link down for some seconds, once"),
];

pub(super) fn look(
    policy: Option<&KernelPolicy>,
    missing: State,
    agent: &AgentArgs,
    findings: &mut Vec<Finding>,
) {
    let auto = [InterfaceSelection::Auto];
    let wanted = policy.map_or(&auto[..], |policy| &policy.interfaces);
    let attach = policy.map_or(Attach::Auto, |policy| policy.attach);
    let selected = Selected::look(wanted, &mut BTreeSet::new());
    for sentence in selected.sentences() {
        let advice = "`ip link` lists what there is; see kernel.interfaces";
        findings.push(Finding::ok(AREA, "missing", sentence).but(missing, advice));
    }
    let ours = attached_by_agent(agent);
    for (name, index) in selected.present {
        let facts = match link_facts(index) {
            Ok(facts) => facts,
            Err(error) => {
                let finding = Finding::ok(AREA, name, error.to_string());
                findings.push(finding.but(State::Off, "the kernel does not tell about it"));
                continue;
            }
        };
        findings.push(driver(&name, index, &facts, attach, missing));
        if let Some(xdp) = facts.xdp {
            let program = ProgramNames::look().describe(xdp.program);
            let found = format!("{program} (id {}, {})", xdp.program, xdp.mode.label());
            let finding = Finding::ok(AREA, format!("{name}: XDP program"), found);
            let advice = "it is not replaced: end the program that holds it (if that is a limiter \
                          without its agent: start the agent, or `limiter detach`)";
            findings.push(if ours.contains(&name) {
                finding
            } else {
                finding.but(missing, advice)
            });
        }
    }
}

fn driver(name: &str, index: u32, facts: &LinkFacts, attach: Attach, missing: State) -> Finding {
    let driver = driver_name(name, index).or_else(|| facts.kind.clone());
    let features = xdp_features(index).ok();
    let native = match features {
        Some(XdpFeatures { native: true, several_buffers: true }) => "yes, also large packets",
        Some(XdpFeatures { native: true, several_buffers: false }) => "yes",
        Some(XdpFeatures { native: false, .. }) => "no",
        None => "not told (kernel 6.3)",
    };
    let driver = driver.as_deref().unwrap_or("none");
    let found = format!(
        "driver {driver}, MTU {}, receive queues {}, native XDP: {native}",
        facts.mtu, facts.receive_queues,
    );
    let finding = Finding::ok(AREA, name, found);
    let is_short = |features: XdpFeatures| {
        features.native && !features.several_buffers && facts.mtu > ONE_BUFFER_BYTES
    };
    let cannot = if features.is_some_and(|features| !features.native) {
        Some("its driver has no native XDP".to_owned())
    } else if features.is_some_and(is_short) {
        Some(format!("natively its driver takes an MTU of at most about {ONE_BUFFER_BYTES}"))
    } else {
        None
    };
    let condition = CONDITIONS.iter().find(|(of, _)| *of == driver).map(|(_, text)| *text);
    match (cannot, attach, condition) {
        (_, Attach::Generic, _) | (None, _, None) => finding,
        (Some(why), Attach::Native, _) => {
            finding.but(missing, format!("{why}: attach = \"auto\" runs generically instead"))
        }
        (Some(why), Attach::Auto, _) => finding
            .but(State::Off, format!("{why}: it runs generically, at several times the cost")),
        (None, _, Some(condition)) => finding.but(State::Ok, condition),
    }
}

/// The driver of a device; `/sys` may be that of another network namespace.
fn driver_name(name: &str, index: u32) -> Option<String> {
    let directory = Path::new("/sys/class/net").join(name);
    let found = fs::read_to_string(directory.join("ifindex")).ok()?;
    if found.trim().parse() != Ok(index) {
        return None;
    }
    let driver = fs::read_link(directory.join("device/driver")).ok()?;
    Some(driver.file_name()?.to_string_lossy().into_owned())
}

/// Names of the interfaces that the running agent holds.
fn attached_by_agent(agent: &AgentArgs) -> Vec<String> {
    let target = Target::new("/v1/status");
    let asked = agent
        .client()
        .and_then(|client| Ok(client.ask::<StatusView>(http::Method::GET, &target, Vec::new())?));
    let interfaces = asked.map(|document| document.view.interfaces).unwrap_or_default();
    interfaces.into_iter().map(|one| one.name).collect()
}
