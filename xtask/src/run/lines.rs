//! Lines to try while the demonstration goes on: complete commands for another terminal.
#![expect(clippy::print_stdout, reason = "this is what the demonstration shows")]

use std::{env, path::Path};

use anyhow::Result;

use super::{
    config::{HONEST_V4, PORT, SERVER_V4, VISITOR},
    stage::Stage,
};

pub(super) fn print(stage: &Stage) -> Result<()> {
    let status = stage.ask(&["status"])?;
    let agent = status["agent_pid"].as_u64().and_then(|pid| stage.outer_pid(pid));
    let sudo = if env::var_os("SUDO_USER").is_some() { "sudo " } else { "" };
    let names = Names {
        sudo,
        limiter: quoted(&stage.limiter),
        socket: quoted(&stage.files.socket()),
        key: quoted(&stage.files.honest_key()),
        clients: stage.clients_net(),
        agent,
    };
    println!("\n{}", text(&names));
    Ok(())
}

/// What the lines are made of, ready for a shell.
struct Names {
    sudo: &'static str,
    limiter: String,
    socket: String,
    key: String,
    clients: String,
    agent: Option<u32>,
}

fn text(names: &Names) -> String {
    let Names { sudo, limiter, socket, key, clients, agent } = names;
    let curl = format!("{sudo}nsenter --net={clients} curl -si -m 3 --interface");
    let url = format!("http://{SERVER_V4}:{PORT}");
    let kill = agent.map_or_else(String::new, |pid| {
        format!(
            "# kill the agent: packets stay filtered, requests answered; another takes over\n{sudo}kill -9 {pid}\n"
        )
    });
    format!(
        "It runs until Ctrl-C. To try in another terminal:

# requests with a valid key, and without one
{curl} {HONEST_V4} -H \"X-API-Key: $({sudo}cat {key})\" {url}/hello
{curl} {VISITOR} {url}/hello
# guess keys until the answers end: banned in the kernel
for n in $(seq 12); do {curl} {VISITOR} -H \"X-API-Key: guess-$n\" {url}/hello | head -n 1; done
# what happens, and what is known
{sudo}{limiter} events -f --socket {socket}
{sudo}{limiter} status --socket {socket}
{sudo}{limiter} why {VISITOR} --socket {socket}
{sudo}{limiter} unban --all --socket {socket}
{kill}"
    )
}

/// One word of a shell's line.
fn quoted(path: &Path) -> String {
    let text = path.to_string_lossy();
    let is_plain =
        |character: char| character.is_ascii_alphanumeric() || "/._-".contains(character);
    if text.chars().all(is_plain) {
        return text.into_owned();
    }
    format!("'{}'", text.replace('\'', "'\\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_one_word_each() {
        assert_eq!(quoted(Path::new("/a/b-c.d")), "/a/b-c.d");
        assert_eq!(quoted(Path::new("/a b/it's")), "'/a b/it'\\''s'");
    }

    #[test]
    fn every_line_is_a_command_or_a_comment() {
        let names = Names {
            sudo: "sudo ",
            limiter: "/l".to_owned(),
            socket: "/s".to_owned(),
            key: "/k".to_owned(),
            clients: "/proc/7/ns/net".to_owned(),
            agent: Some(9),
        };
        let text = text(&names);
        let lines = text.lines().skip(2);
        let starts = ["# ", "sudo ", "for "];
        for line in lines {
            assert!(starts.iter().any(|start| line.starts_with(start)), "{line}");
        }
        assert!(text.ends_with("sudo kill -9 9\n"), "{text}");
    }
}
