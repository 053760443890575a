//! Jobs as text: one a line, or all in a JSON array. Either is read piece by piece, in constant memory.

use std::io::{BufRead, BufReader, Read};

use super::spec;
use crate::failure::{Failure, failed};

/// A longer text is no job: the largest payload, and room for the rest.
const LONGEST: usize = 300 * 1024 * 1024;

/// A job of the input, with the number of the line that it begins in.
pub struct Numbered {
    pub number: u64,
    pub parsed: spec::Parsed,
    pub bytes: usize,
}

/// What the input is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Shape {
    Unknown,
    Lines,
    /// An array, of which something was read.
    Array {
        first: bool,
    },
    /// An array that has ended.
    Ended,
}

/// Reads one job after the other.
pub struct Jobs<R> {
    input: BufReader<R>,
    number: u64,
    buffer: Vec<u8>,
    shape: Shape,
}

impl<R: Read> Jobs<R> {
    pub fn new(input: R) -> Self {
        let input = BufReader::with_capacity(1024 * 1024, input);
        Self { input, number: 1, buffer: Vec::new(), shape: Shape::Unknown }
    }

    /// The next job.
    pub fn next(&mut self) -> Result<Option<Numbered>, Failure> {
        if self.shape == Shape::Unknown {
            self.skip_mark()?;
            self.shape = match self.skip_space()? {
                Some(b'[') => {
                    self.input.consume(1);
                    Shape::Array { first: true }
                }
                _ => Shape::Lines,
            };
        }
        match self.shape {
            Shape::Array { first } => self.next_of_array(first),
            Shape::Ended => Ok(None),
            _ => self.next_line(),
        }
    }

    fn next_line(&mut self) -> Result<Option<Numbered>, Failure> {
        if self.skip_space()?.is_none() {
            return Ok(None);
        }
        let number = self.number;
        self.buffer.clear();
        (&mut self.input).take(LONGEST as u64).read_until(b'\n', &mut self.buffer)?;
        self.number += 1;
        if self.buffer.len() == LONGEST {
            return Err(wrong(number, &too_long()));
        }
        self.parse(number).map(Some)
    }

    fn next_of_array(&mut self, first: bool) -> Result<Option<Numbered>, Failure> {
        let mut next = self.skip_space()?;
        match next {
            Some(b',') if !first => {
                self.input.consume(1);
                next = self.skip_space()?;
            }
            Some(b']') => {
                self.input.consume(1);
                self.shape = Shape::Ended;
                return match self.skip_space()? {
                    None => Ok(None),
                    Some(_) => Err(wrong(self.number, "has something behind the end of the array")),
                };
            }
            Some(_) if !first => return Err(wrong(self.number, "has no comma before the next job of the array")),
            _ => {}
        }
        let number = self.number;
        match next {
            Some(b'{') => {}
            None => return Err(wrong(number, "is the last one, and the array has no end: is a part of it missing?")),
            Some(_) => {
                return Err(wrong(
                    number,
                    "has something in the array that is no job: an object in braces is expected",
                ));
            }
        }
        self.shape = Shape::Array { first: false };
        self.take_object(number)?;
        self.parse(number).map(Some)
    }

    /// Reads up to the brace that closes the first one.
    fn take_object(&mut self, number: u64) -> Result<(), Failure> {
        self.buffer.clear();
        let (mut depth, mut in_string, mut escaped) = (0_u64, false, false);
        loop {
            let chunk = self.input.fill_buf()?;
            if chunk.is_empty() {
                return Err(wrong(number, "begins a job that has no end: is a part of the file missing?"));
            }
            let mut end = None;
            for (place, byte) in chunk.iter().enumerate() {
                self.number += u64::from(*byte == b'\n');
                match byte {
                    _ if escaped => escaped = false,
                    b'\\' if in_string => escaped = true,
                    b'"' => in_string = !in_string,
                    b'{' | b'[' if !in_string => depth += 1,
                    b'}' | b']' if !in_string => {
                        depth -= 1;
                        if depth == 0 {
                            end = Some(place + 1);
                            break;
                        }
                    }
                    _ => {}
                }
            }
            let taken = end.unwrap_or(chunk.len());
            self.buffer.extend_from_slice(&chunk[..taken]);
            self.input.consume(taken);
            if self.buffer.len() >= LONGEST {
                return Err(wrong(number, &too_long()));
            }
            if end.is_some() {
                return Ok(());
            }
        }
    }

    fn parse(&self, number: u64) -> Result<Numbered, Failure> {
        let text =
            std::str::from_utf8(&self.buffer).map_err(|error| wrong(number, &format!("is no UTF-8: {error}")))?;
        let parsed = spec::parse(text).map_err(|problem| wrong(number, &problem))?;
        Ok(Numbered { number, parsed, bytes: self.buffer.len() })
    }

    /// The next byte that is no white space, which stays where it is.
    fn skip_space(&mut self) -> Result<Option<u8>, Failure> {
        loop {
            let chunk = self.input.fill_buf()?;
            let space = chunk.iter().take_while(|byte| byte.is_ascii_whitespace()).count();
            self.number += chunk[..space].iter().map(|byte| u64::from(*byte == b'\n')).sum::<u64>();
            let next = chunk.get(space).copied();
            let is_over = chunk.is_empty();
            self.input.consume(space);
            if next.is_some() || is_over {
                return Ok(next);
            }
        }
    }

    /// Some editors begin a file with this mark.
    fn skip_mark(&mut self) -> Result<(), Failure> {
        const MARK: &[u8] = "\u{feff}".as_bytes();
        if self.input.fill_buf()?.first() == MARK.first() {
            let mut begin = [0; MARK.len()];
            self.input.read_exact(&mut begin).map_err(|error| wrong(1, &format!("is no job: {error}")))?;
            if begin != MARK {
                return Err(wrong(1, "is no job: it begins with what is no JSON"));
            }
        }
        Ok(())
    }
}

fn wrong(number: u64, problem: &str) -> Failure {
    failed(format!("line {number} {problem}"))
}

fn too_long() -> String {
    format!("is longer than {LONGEST} bytes")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Gives a few bytes at a time.
    struct Slowly<'a>(&'a [u8]);

    impl Read for Slowly<'_> {
        fn read(&mut self, to: &mut [u8]) -> std::io::Result<usize> {
            let count = self.0.len().min(2).min(to.len());
            to[..count].copy_from_slice(&self.0[..count]);
            self.0 = &self.0[count..];
            Ok(count)
        }
    }

    fn read(text: &str) -> Result<Vec<(u64, String)>, String> {
        let mut jobs = Jobs::new(Slowly(text.as_bytes()));
        let mut found = Vec::new();
        loop {
            match jobs.next() {
                Ok(Some(job)) => found.push((job.number, job.parsed.spec.task().to_owned())),
                Ok(None) => return Ok(found),
                Err(Failure::Failed(problem)) => return Err(problem),
                Err(other) => panic!("{other:?}"),
            }
        }
    }

    #[test]
    fn jobs_are_read_from_lines_and_from_arrays_alike() {
        let lines = "\u{feff}\n{\"task\": \"a\"}\r\n\n  {\"task\": \"b\", \"payload\": [\"]}\"]}";
        let array =
            "\u{feff} [\n{\"task\": \"a\"},\n\n{\n\"task\": \"b\",\n\"payload\": {\"x\": [\"}]\\\"{\", 1]}\n} ]\n";
        assert_eq!(read(lines), Ok(vec![(2, "a".to_owned()), (4, "b".to_owned())]));
        assert_eq!(read(array), Ok(vec![(2, "a".to_owned()), (4, "b".to_owned())]));
        for none in ["", " \n\n", "[]", "\n[ ]\n", "\u{feff}"] {
            assert_eq!(read(none), Ok(vec![]), "{none:?}");
        }
    }

    #[test]
    fn what_is_wrong_is_told_with_its_line() {
        let job = "{\"task\": \"a\"}";
        for (text, says) in [
            (format!("[{job}\n{job}]"), "line 2 has no comma"),
            (format!("[{job},\n]"), "line 2 has something in the array that is no job"),
            (format!("[{job},\n 7]"), "line 2 has something in the array that is no job"),
            (format!("[{job}"), "the array has no end"),
            (format!("[{job},\n{{\"task\": \"a\", "), "line 2 begins a job that has no end"),
            (format!("[{job}]\n{job}"), "line 2 has something behind the end"),
            (format!("[,{job}]"), "line 1 has something in the array that is no job"),
            (format!("[{job},\n{{\"tusk\": 1}}]"), "line 2 has an unknown field \"tusk\""),
            ("{\n\"task\": \"a\"\n}".to_owned(), "one job a line"),
            ("\u{fefe}".to_owned(), "line 1 is no job"),
        ] {
            let problem = read(&text).expect_err(&text);
            assert!(problem.contains(says), "{text:?}: {problem}");
        }
    }
}
