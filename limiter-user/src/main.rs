//! The `limiter` command: hands everything to `cli`; sets the allocator of both processes.

use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    limiter_user::cli::main()
}
