//! Standard output, which ends the process quietly when its reader is gone.

use std::fmt;
use std::io::{self, ErrorKind, Write};
use std::process::exit;

/// Prints a line to standard output, like `println!`. If the reader has closed the pipe, as `head`
/// does, the process ends with success, because nobody waits for the rest.
macro_rules! outln {
    () => { $crate::output::print(format_args!("\n")) };
    ($($arguments:tt)*) => { $crate::output::print(format_args!("{}\n", format_args!($($arguments)*))) };
}

/// Prints to standard output, like `print!`; see `outln!`.
macro_rules! out {
    ($($arguments:tt)*) => { $crate::output::print(format_args!($($arguments)*)) };
}

/// Writes to standard output. If that fails, the process ends: with a message, unless the reader is
/// gone.
pub fn print(arguments: fmt::Arguments<'_>) {
    if let Err(error) = Output.write_fmt(arguments) {
        eprintln!("tidegate: cannot write to standard output: {error}");
        exit(i32::from(crate::exit::FAILED));
    }
}

/// Standard output as a writer that ends the process quietly when its reader is gone.
pub struct Output;

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        or_end(io::stdout().write(bytes))
    }

    fn flush(&mut self) -> io::Result<()> {
        or_end(io::stdout().flush())
    }
}

/// The result of a write to standard output. If its reader is gone, the process ends with success.
fn or_end<T>(written: io::Result<T>) -> io::Result<T> {
    match written {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => exit(0),
        written => written,
    }
}
