//! Scripts that the store runs: called by digest, sent whole only where the server does not know it.

use std::fmt::Write as _;

use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use redis::{Cmd, ErrorKind, RedisResult, ServerErrorKind, Value, aio::MultiplexedConnection};

/// One script and its name on the server.
#[derive(Debug)]
pub(super) struct Script {
    text: &'static str,
    /// SHA-1 in hexadecimal digits: what EVALSHA wants.
    digest: String,
}

impl Script {
    pub(super) fn new(text: &'static str) -> Self {
        let mut name = String::with_capacity(40);
        for byte in digest(&SHA1_FOR_LEGACY_USE_ONLY, text.as_bytes()).as_ref() {
            // Writing to a string cannot fail.
            write!(name, "{byte:02x}").ok();
        }
        Self { text, digest: name }
    }

    /// Calls it with so many keys; `fill` appends them and the arguments. A server that does not
    /// know the script (new, restarted, failed over, flushed) did nothing at the first call and is
    /// sent the text, so nothing is counted twice.
    pub(super) async fn call(
        &self,
        connection: &mut MultiplexedConnection,
        keys: usize,
        fill: impl Fn(&mut Cmd),
    ) -> RedisResult<Value> {
        let command = |name: &str, script: &str| {
            let mut command = Cmd::with_capacity(ARGUMENTS, script.len() + ARGUMENT_BYTES);
            command.arg(name).arg(script).arg(keys);
            fill(&mut command);
            command
        };
        match ask(connection, &command("EVALSHA", &self.digest)).await {
            Err(error) if error.kind() == ErrorKind::Server(ServerErrorKind::NoScript) => {
                ask(connection, &command("EVAL", self.text)).await
            }
            answer => answer,
        }
    }
}

/// Room that most calls need.
const ARGUMENTS: usize = 32;
const ARGUMENT_BYTES: usize = 512;

/// One command and its answer.
pub(super) async fn ask(
    connection: &mut MultiplexedConnection,
    command: &Cmd,
) -> RedisResult<Value> {
    connection.send_packed_command(command).await.and_then(Value::extract_error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_script_is_named_by_its_sha1() {
        let script = Script::new("return 1");
        assert_eq!(script.digest, "e0e1f9fabfc9d4800c877a703b823ac0578ff8db");
    }
}
