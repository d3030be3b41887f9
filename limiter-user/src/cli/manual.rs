//! `limiter completions` and `limiter man`: what the argument parser knows, in other forms. Ask no
//! agent.

use std::process::ExitCode;

use anyhow::Result;
use clap::{Args, Command};
use clap_complete::Shell;

use super::output;

#[derive(Args, Debug)]
pub(super) struct CompletionsArgs {
    /// For which shell
    shell: Shell,
}

/// For `source <(limiter completions bash)` and the like.
pub(super) fn completions(args: &CompletionsArgs, mut command: Command) -> Result<ExitCode> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut command, "limiter", &mut script);
    output::print(&String::from_utf8_lossy(&script))?;
    Ok(ExitCode::SUCCESS)
}

/// One page, in roff: the program, then each command as a section of its own.
pub(super) fn man(mut command: Command) -> Result<ExitCode> {
    // Names each part as it is typed.
    command.build();
    let mut page = Vec::new();
    let whole = clap_mangen::Man::new(command.clone()).section("8").manual("limiter");
    whole.render_title(&mut page)?;
    whole.render_name_section(&mut page)?;
    whole.render_synopsis_section(&mut page)?;
    whole.render_description_section(&mut page)?;
    for part in command.get_subcommands().filter(|part| !part.is_hide_set()) {
        let name = part.get_name().to_uppercase();
        page.extend_from_slice(format!(".SH \"LIMITER {name}\"\n").as_bytes());
        let section = clap_mangen::Man::new(part.clone());
        // Its own headings are one level below.
        let mut body = Vec::new();
        section.render_description_section(&mut body)?;
        section.render_synopsis_section(&mut body)?;
        section.render_options_section(&mut body)?;
        page.extend_from_slice(String::from_utf8_lossy(&body).replace(".SH ", ".SS ").as_bytes());
    }
    page.extend_from_slice(
        b".SH \"EXIT STATUS\"\n0 done, 1 failed, 2 wrong usage or configuration.\n\
          .SH FILES\n/etc/limiter/limiter.toml, /run/limiter/control.sock, /var/lib/limiter\n",
    );
    output::print(&String::from_utf8_lossy(&page))?;
    Ok(ExitCode::SUCCESS)
}
