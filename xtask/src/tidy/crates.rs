//! Which crate of the workspace may depend on which: a manifest in, offences out.

use anyhow::{Context, Result};

use super::Offence;

/// Package, the product crates it may depend on, and why no others.
const EDGES: [(&str, &[&str], &str); 5] = [
    ("limiter-common", &[], "what both sides share knows neither side"),
    ("limiter-ebpf", &["limiter-common"], "the kernel shim knows only what is shared"),
    ("limiter-user", &["limiter-common"], "it embeds the object and imports none of its code"),
    ("limiter-tests", &["limiter-common", "limiter-user"], "tests stand outside"),
    ("xtask", &[], "it must build when the product does not"),
];

pub(super) fn check(file: &str, manifest: &str) -> Result<Vec<Offence>> {
    let table: toml::Table = manifest.parse().with_context(|| format!("{file} is not TOML"))?;
    let package = table
        .get("package")
        .and_then(|package| package.get("name"))
        .and_then(toml::Value::as_str)
        .with_context(|| format!("{file} names no package"))?;
    let Some((_, allowed, reason)) = EDGES.iter().find(|(name, ..)| *name == package) else {
        let message = format!("{package}: not in the crate table of xtask/src/tidy/crates.rs");
        return Ok(vec![Offence { file: file.to_owned(), line: 1, message }]);
    };
    let mut found = Vec::new();
    dependencies(&table, &mut found);
    let is_product = |name: &str| EDGES.iter().any(|(product, ..)| *product == name);
    let offences = found.into_iter().filter(|name| is_product(name) && !allowed.contains(name));
    Ok(offences
        .map(|name| Offence {
            file: file.to_owned(),
            line: manifest.lines().position(|line| line.starts_with(name)).map_or(1, |at| at + 1),
            message: format!("{package} depends on {name}: {reason}"),
        })
        .collect())
}

/// The names in every dependency table, those of `[target.*]` included.
fn dependencies<'table>(table: &'table toml::Table, found: &mut Vec<&'table str>) {
    for (key, value) in table {
        let Some(inner) = value.as_table() else {
            continue;
        };
        if matches!(key.as_str(), "dependencies" | "dev-dependencies" | "build-dependencies") {
            for (name, dependency) in inner {
                // `x = { package = "y" }` depends on y.
                let renamed = dependency.get("package").and_then(toml::Value::as_str);
                found.push(renamed.unwrap_or(name));
            }
        } else if key == "target" {
            for value in inner.values() {
                if let Some(platform) = value.as_table() {
                    dependencies(platform, found);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offences(manifest: &str) -> Vec<String> {
        check("x/Cargo.toml", manifest).unwrap().iter().map(ToString::to_string).collect()
    }

    #[test]
    fn edges_in_the_right_direction() {
        let manifest = "[package]\nname = \"limiter-user\"\n[dependencies]\naya = \"1\"\n\
                        limiter-common = { workspace = true }\n";
        assert_eq!(offences(manifest), Vec::<String>::new());
    }

    #[test]
    fn edges_in_the_wrong_direction() {
        let manifest = "[package]\nname = \"limiter-common\"\n[dev-dependencies]\n\
                        limiter-user = { workspace = true }\n";
        let found = offences(manifest);
        assert!(found[0].starts_with("x/Cargo.toml:4: limiter-common depends on"), "{found:?}");
        let hidden = "[package]\nname = \"xtask\"\n[target.'cfg(unix)'.dependencies]\n\
                      other = { package = \"limiter-common\", path = \"..\" }\n";
        assert_eq!(offences(hidden).len(), 1);
        let unknown = "[package]\nname = \"limiter-extra\"\n";
        assert_eq!(offences(unknown).len(), 1);
    }
}
