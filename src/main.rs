//! The program: everything is in the library's `cli` room.
#![allow(unsafe_code)] // only here is nothing open yet; ARCHITECTURE.md names this file.

fn main() -> std::process::ExitCode {
    // SAFETY: the first thing that the program does: nothing has opened a file.
    let inherited = unsafe { lbpayload::Inherited::take_all() };
    lbpayload::cli::main(inherited)
}
