//! Which module of `limiter-user` may know which, and which of them may know aya and hyper. Paths
//! are taken from `use` and from expressions and resolved as rustc would: `crate`, `self`,
//! `super`, groups and modules inside the file.

use super::source::{Source, Token};

/// The crate whose inside is checked.
const ROOT: &str = "limiter-user/src/";

/// Third-party crates that only some modules may name.
const ONLY_IN: [(&[&str], &[&str], &str); 3] = [
    (&["aya", "aya_log", "aya_obj"], &["kernel"], "only kernel speaks to the kernel's BPF"),
    (&["hyper", "hyper_util"], &["proxy", "admin", "cli"], "only proxy, admin and cli speak HTTP"),
    (&["redis"], &["store"], "only store speaks to the server that hosts share"),
];

/// Modules that may not name others.
const NEVER: [(&str, &[&str], &str); 6] = [
    ("kernel", &["proxy", "config"], "kernel and proxy meet in agent; config is read into policy"),
    ("proxy", &["kernel", "config"], "kernel and proxy meet in agent; config is read into policy"),
    (
        "policy",
        &["config", "kernel", "proxy", "events", "agent"],
        "policy knows neither files nor maps nor wire",
    ),
    (
        "credentials",
        &["config", "kernel", "proxy", "events", "agent", "clock"],
        "credentials are judged by what is handed in: no file, no wire, no clock",
    ),
    (
        "store",
        &["config", "kernel", "proxy", "events", "agent"],
        "the store counts and shares what it is handed, for the agent and for the proxy alike",
    ),
    (
        "proxy::stage",
        &["proxy::upstream", "events"],
        "a stage sees its policy and earlier proofs, and leaves sending and telling to others",
    ),
];

const STAGES: &str = "proxy::stage";

/// Reports every path in `file` that goes the wrong way.
pub(super) fn check(file: &str, source: &Source, offend: &mut dyn FnMut(usize, String)) {
    let Some(module) = module(file) else { return };
    for (line, path) in paths(&source.tokens, &module) {
        let text = path.join("::");
        let Some(inner) = text.strip_prefix("crate::") else {
            for (names, places, reason) in ONLY_IN {
                let named = path.first().is_some_and(|first| names.contains(&first.as_str()));
                if named && !places.iter().any(|place| is_within(&module, place)) {
                    offend(line, format!("{text} in {module}: {reason}"));
                }
            }
            continue;
        };
        for (place, others, reason) in NEVER {
            let other = others.iter().find(|other| is_within(inner, other));
            if let Some(other) = other.filter(|_| is_within(&module, place)) {
                offend(line, format!("{place} names {other}: {reason}"));
            }
        }
        if let (Some(own), Some(other)) = (stage(&module), stage(inner))
            && own != other
            && !other.starts_with(|character: char| character.is_uppercase() || character == '*')
        {
            let reason = "stages meet in the pipeline and never import each other";
            offend(line, format!("stage {own} names {other}: {reason}"));
        }
    }
}

/// `proxy::stage::cors` for `limiter-user/src/proxy/stage/cors.rs`; empty for the crate root.
fn module(file: &str) -> Option<String> {
    let inner = file.strip_prefix(ROOT)?.strip_suffix(".rs")?;
    Some(if inner == "lib" { String::new() } else { inner.replace('/', "::") })
}

fn is_within(path: &str, module: &str) -> bool {
    path.strip_prefix(module).is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
}

/// The part of a path that names the stage: `auth` of `proxy::stage::auth::api_key`.
fn stage(path: &str) -> Option<&str> {
    path.strip_prefix(STAGES)?.strip_prefix("::")?.split("::").next()
}

type Path = Vec<String>;

/// Every path with its line: those into this crate begin with `crate`, those whose beginning is a
/// name that only rustc can resolve are left as written.
fn paths(tokens: &[Token], module: &str) -> Vec<(usize, Path)> {
    let mut found = Vec::new();
    // Brace depth, and the depths at which modules inside this file began.
    let mut depth = 0_usize;
    let mut inner = Vec::new();
    let mut at = 0;
    while let Some(token) = tokens.get(at) {
        let word = |ahead: usize| tokens.get(at + ahead).map(|token| token.text.as_str());
        match token.text.as_str() {
            "{" => depth += 1,
            "}" => {
                depth = depth.saturating_sub(1);
                if inner.last() == Some(&depth) {
                    inner.pop();
                }
            }
            "mod" if word(2) == Some("{") => inner.push(depth),
            "use" => {
                let mut trees = Vec::new();
                at = use_tree(tokens, at + 1, &[], &mut trees);
                found.extend(trees.into_iter().filter_map(|(line, path)| {
                    resolve(path, module, inner.len()).map(|path| (line, path))
                }));
                continue;
            }
            _ if token.is_word() && word(1) == Some("::") => {
                let line = token.line;
                let mut path = vec![token.text.clone()];
                while tokens.get(at + 1).is_some_and(|next| next.text == "::")
                    && let Some(next) = tokens.get(at + 2).filter(|next| next.is_word())
                {
                    path.push(next.text.clone());
                    at += 2;
                }
                found.extend(resolve(path, module, inner.len()).map(|path| (line, path)));
            }
            _ => {}
        }
        at += 1;
    }
    found
}

/// Reads one tree of a `use`, from `at`; returns where it ends.
fn use_tree(
    tokens: &[Token],
    mut at: usize,
    prefix: &[String],
    found: &mut Vec<(usize, Path)>,
) -> usize {
    let mut path = prefix.to_vec();
    let mut line = tokens.get(at).map_or(0, |token| token.line);
    while let Some(token) = tokens.get(at) {
        match token.text.as_str() {
            "::" => {}
            "{" => {
                at += 1;
                while tokens.get(at).is_some_and(|token| token.text != "}") {
                    at = use_tree(tokens, at, &path, found);
                    if tokens.get(at).is_some_and(|token| token.text == ",") {
                        at += 1;
                    }
                }
                return at + 1;
            }
            "as" => at += 1,
            "*" => path.push("*".to_owned()),
            _ if token.is_word() => {
                line = token.line;
                path.push(token.text.clone());
            }
            _ => break,
        }
        at += 1;
    }
    // `use a::{self}` is `use a`.
    if path.len() > prefix.len() && path.len() > 1 && path.last().is_some_and(|last| last == "self")
    {
        path.pop();
    }
    found.push((line, path));
    // Anything but what ends a tree would be read for ever.
    match tokens.get(at).map(|token| token.text.as_str()) {
        Some("," | "}" | ";") | None => at,
        Some(_) => at + 1,
    }
}

/// `None` for what stays inside a module of the same file.
fn resolve(path: Path, module: &str, inner: usize) -> Option<Path> {
    let (up, rest) = match path.first()?.as_str() {
        // The binary names its own library.
        "limiter_user" => {
            let rest = path.into_iter().skip(1);
            return Some(std::iter::once("crate".to_owned()).chain(rest).collect());
        }
        "self" | "super" => {
            let up = path
                .iter()
                .skip(usize::from(path[0] == "self"))
                .take_while(|part| *part == "super")
                .count();
            (up, path.iter().skip_while(|part| matches!(part.as_str(), "self" | "super")))
        }
        _ => return Some(path),
    };
    let up = up.checked_sub(inner)?;
    let parts: Vec<&str> = module.split("::").filter(|part| !part.is_empty()).collect();
    let kept = parts.len().checked_sub(up)?;
    let base = std::iter::once("crate").chain(parts.into_iter().take(kept)).map(str::to_owned);
    Some(base.chain(rest.cloned()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offences(file: &str, text: &str) -> Vec<(usize, String)> {
        let mut found = Vec::new();
        check(file, &Source::read(text), &mut |line, message| {
            found.push((line, message));
        });
        found
    }

    fn lines(file: &str, text: &str) -> Vec<usize> {
        offences(file, text).into_iter().map(|(line, _)| line).collect()
    }

    #[test]
    fn aya_and_hyper_only_where_they_belong() {
        let text = "use aya::Ebpf;\nfn f() { let x = aya_log::EbpfLogger::init(); }\n";
        assert_eq!(lines("limiter-user/src/agent.rs", text), [1, 2]);
        assert_eq!(lines("limiter-user/src/main.rs", text), [1, 2]);
        assert!(lines("limiter-user/src/kernel.rs", text).is_empty());
        assert!(lines("limiter-user/src/kernel/plan.rs", text).is_empty());
        assert!(lines("tests/src/kernel.rs", text).is_empty());
        let text = "use {std::io, hyper::body::Incoming};\n";
        assert_eq!(lines("limiter-user/src/link.rs", text), [1]);
        assert!(lines("limiter-user/src/admin/api.rs", text).is_empty());
        assert!(lines("limiter-user/src/link.rs", "use crate::hyperbole::x;\n").is_empty());
    }

    #[test]
    fn kernel_proxy_and_policy_keep_apart() {
        let grouped = "use crate::{\n    clock::Clock,\n    kernel::{Kernel, plan},\n};\n";
        assert_eq!(lines("limiter-user/src/proxy/listener.rs", grouped), [3, 3]);
        assert!(lines("limiter-user/src/agent.rs", grouped).is_empty());
        let relative = "fn f() { super::super::proxy::start() }\n";
        assert_eq!(lines("limiter-user/src/kernel/plan.rs", relative), [1]);
        let text = "use crate::events;\nuse crate::{config, limits};\n";
        assert_eq!(lines("limiter-user/src/policy/http.rs", text), [1, 2]);
        assert!(lines("limiter-user/src/policy_check.rs", text).is_empty());
    }

    #[test]
    fn stages_do_not_know_each_other() {
        let text = "use super::cors;\nuse crate::proxy::stage::limits::Quota;\n\
                    use super::super::{reply::Reply, upstream};\nuse super::auth::api_key;\n";
        assert_eq!(lines("limiter-user/src/proxy/stage/auth.rs", text), [1, 2, 3]);
        let text = "use super::super::cors::Check;\nuse super::Scheme;\n";
        assert_eq!(lines("limiter-user/src/proxy/stage/auth/api_key.rs", text), [1]);
        assert!(lines("limiter-user/src/proxy/pipeline.rs", "use super::stage::cors;").is_empty());
        assert!(lines("limiter-user/src/proxy/stage/cors.rs", "use super::Proof;").is_empty());
    }

    #[test]
    fn modules_inside_a_file_have_their_own_super() {
        let text = "mod tests {\n use super::*;\n use super::check;\n fn f() { super::g::h() }\n\
                    use super::super::cors;\n}\nuse super::cors;\n";
        assert_eq!(lines("limiter-user/src/proxy/stage/auth.rs", text), [5, 7]);
    }

    #[test]
    fn the_binary_names_the_library() {
        let text = "//! x\nuse limiter_user::{cli, kernel};\n";
        assert!(lines("limiter-user/src/main.rs", text).is_empty());
    }
}
