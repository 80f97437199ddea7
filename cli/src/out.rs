//! What is printed. `println!` of the standard library panics when a pipe is
//! closed or a disk is full, so the macros of the same names below take its place
//! in the whole command line: no command is cut off half-way because nobody reads
//! what it says.

use std::fmt::Arguments;
use std::io::{self, ErrorKind, Write};
use std::process::ExitCode;
use std::sync::{Mutex, PoisonError};

/// Why standard output takes nothing more.
static REFUSED: Mutex<Option<io::Error>> = Mutex::new(None);

macro_rules! print {
    ($($text:tt)*) => { $crate::out::print(format_args!($($text)*)) };
}

macro_rules! println {
    () => { $crate::out::print(format_args!("\n")) };
    ($($text:tt)*) => { $crate::out::print(format_args!("{}\n", format_args!($($text)*))) };
}

macro_rules! eprintln {
    ($($text:tt)*) => { $crate::out::note(format_args!($($text)*)) };
}

/// Writes to standard output. After a first failure nothing more is tried:
/// [`finish`] says what it was.
pub(crate) fn print(text: Arguments<'_>) {
    let mut refused = REFUSED.lock().unwrap_or_else(PoisonError::into_inner);
    if refused.is_none() {
        *refused = io::stdout().write_fmt(text).err();
    }
}

/// Writes a line to standard error, which there is nowhere to complain about.
pub(crate) fn note(text: Arguments<'_>) {
    let _ = writeln!(io::stderr(), "{text}");
}

/// The exit code of a command that ends with `code`: 2 where its output could not
/// be written. A pipe that was closed is no failure: whoever read it had enough.
pub(crate) fn finish(code: ExitCode) -> ExitCode {
    let mut refused = REFUSED.lock().unwrap_or_else(PoisonError::into_inner);
    let failed = refused.take().or_else(|| io::stdout().flush().err());
    match failed {
        None => code,
        Some(error) if error.kind() == ErrorKind::BrokenPipe => code,
        Some(error) => {
            note(format_args!(
                "backstop: the output could not be written: {error}; what the command did is done all the same"
            ));
            ExitCode::from(2)
        }
    }
}
