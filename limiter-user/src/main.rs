//! The `limiter` command: hands everything to `cli`; sets the allocator of both processes.

mod allocator;

use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: allocator::Allocator = allocator::Allocator;

fn main() -> ExitCode {
    limiter_user::cli::main()
}
