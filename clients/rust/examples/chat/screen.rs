//! The terminal: lines typed come out of it, lines shown go in, and neither breaks the other.
//!
//! - At a terminal rustyline reads in a thread of its own, and everything shown goes through its printer, above the prompt.
//! - The bar of a PK stays above the prompt: it is drawn over the one before, and what is shown goes above it. A line that is typed ends
//!   that, for then it is not known what stands there; the next bar begins anew.
//! - In a pipe a thread reads lines as fast as they are taken: the channel holds one.

use crate::words::{Paint, clean};
use anyhow::{Context, Result};
use rustyline::{DefaultEditor, ExternalPrinter, error::ReadlineError};
use std::{
    io::{self, BufRead, IsTerminal, Write},
    thread,
};
use tokio::sync::mpsc;

/// Lines read and not yet taken. One: what was typed is sent in order, and a pipe waits for its reader.
const LINES_MAX: usize = 1;

/// Something was typed.
#[derive(Debug)]
pub(crate) enum Input {
    Line(String),
    /// No more will come.
    End,
}

/// To the beginning of the line above, which is wiped.
const LINE_ABOVE: &str = "\x1b[1A\r\x1b[2K";

/// Where lines are shown.
pub(crate) struct Screen {
    printer: Printer,
    pub(crate) paint: Paint,
    /// A person sits there.
    pub(crate) is_terminal: bool,
    /// Of the terminal when it was taken over.
    columns: usize,
    /// The bar that is the line above the prompt.
    bar: Option<String>,
}

enum Printer {
    Terminal(Box<dyn ExternalPrinter + Send>),
    Pipe,
}

impl Screen {
    /// Takes the terminal over; `name` stands in the prompt.
    pub(crate) fn open(name: &str) -> Result<(Self, mpsc::Receiver<Input>)> {
        let (sender, input) = mpsc::channel(LINES_MAX);
        let is_terminal = io::stdin().is_terminal() && io::stdout().is_terminal();
        let colours = io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
        let mut columns = 0;
        let printer = if is_terminal {
            let mut editor = DefaultEditor::new().context("this terminal cannot be edited in")?;
            let printer = editor.create_external_printer().context("this terminal cannot be printed to")?;
            columns = editor.dimensions().map_or(0, |(columns, _)| usize::from(columns));
            let prompt = format!("{name}> ");
            thread::spawn(move || read_terminal(&mut editor, &prompt, &sender));
            Printer::Terminal(Box::new(printer))
        } else {
            thread::spawn(move || read_pipe(&sender));
            Printer::Pipe
        };
        Ok((Self { printer, paint: Paint { colours }, is_terminal, columns, bar: None }, input))
    }

    /// Shows a line. A screen that is gone shows nothing more, and the end of input will tell.
    pub(crate) fn show(&mut self, line: &str) {
        match &self.bar {
            Some(bar) => self.print(&format!("{LINE_ABOVE}{line}\n{bar}")),
            None => self.print(line),
        }
    }

    /// Shows a bar that is so many columns wide.
    pub(crate) fn show_bar(&mut self, line: &str, width: usize) {
        let over = if self.bar.is_some() { LINE_ABOVE } else { "" };
        self.print(&format!("{over}{line}"));
        // One that is wrapped is more than a line.
        self.bar = (self.is_terminal && width < self.columns).then(|| line.to_owned());
    }

    /// The bar is over, or what stands above the prompt is not known, as after a line was typed. It is left where it is.
    pub(crate) fn leave_bar(&mut self) {
        self.bar = None;
    }

    fn print(&mut self, line: &str) {
        match &mut self.printer {
            Printer::Terminal(printer) => {
                printer.print(format!("{line}\n")).ok();
            }
            Printer::Pipe => {
                let mut output = io::stdout().lock();
                writeln!(output, "{line}").and_then(|()| output.flush()).ok();
            }
        }
    }

    /// A remark of the program: in a pipe it goes to standard error, so that the output is chat alone.
    pub(crate) fn remark(&mut self, text: &str) {
        if self.is_terminal {
            let line = self.paint.remark(&clean(text));
            self.show(&line);
        } else {
            complain(&format!("· {}", clean(text)));
        }
    }

    /// Something went wrong; where remarks go.
    pub(crate) fn trouble(&mut self, text: &str) {
        if self.is_terminal {
            let line = self.paint.trouble(&clean(text));
            self.show(&line);
        } else {
            complain(&format!("! {}", clean(text)));
        }
    }
}

/// A line on standard error; when that is closed there is nobody to tell.
pub(crate) fn complain(text: &str) {
    writeln!(io::stderr(), "{text}").ok();
}

fn read_terminal(editor: &mut DefaultEditor, prompt: &str, sender: &mpsc::Sender<Input>) {
    loop {
        let input = match editor.readline(prompt) {
            Ok(line) => {
                // History is a comfort.
                editor.add_history_entry(&line).ok();
                wipe_typed(editor, prompt, &line);
                Input::Line(line)
            }
            Err(ReadlineError::Interrupted | ReadlineError::Eof) => Input::End,
            Err(error) => {
                complain(&format!("chat: the terminal failed: {error}"));
                Input::End
            }
        };
        let is_end = matches!(input, Input::End);
        if sender.blocking_send(input).is_err() || is_end {
            return;
        }
    }
}

/// Takes the typed line off the screen: it comes back, with a mark, when the server has it. A line that was wrapped stays.
fn wipe_typed(editor: &mut DefaultEditor, prompt: &str, line: &str) {
    let fits = editor.dimensions().is_some_and(|(columns, _)| prompt.chars().count() + line.len() < usize::from(columns));
    if fits {
        let mut output = io::stdout().lock();
        output.write_all(b"\x1b[1A\x1b[2K\r").and_then(|()| output.flush()).ok();
    }
}

fn read_pipe(sender: &mpsc::Sender<Input>) {
    for line in io::stdin().lock().lines() {
        let Ok(line) = line else { break };
        if sender.blocking_send(Input::Line(line)).is_err() {
            return;
        }
    }
    sender.blocking_send(Input::End).ok();
}
