//! What a program prints, line by line.

use std::collections::VecDeque;

use tokio::io::{AsyncRead, AsyncReadExt};

/// A longer line is told in pieces.
const MAX_LINE: usize = 8 * 1024;
/// How much of the end is kept.
const KEPT_LINES: usize = 20;

/// The last lines of what was printed.
#[derive(Debug, Default)]
pub struct Tail(VecDeque<String>);

impl Tail {
    fn push(&mut self, line: &str) {
        if self.0.len() == KEPT_LINES {
            self.0.pop_front();
        }
        self.0.push_back(line.to_owned());
    }

    /// The lines, or nothing. Of more than so many bytes it is the end that says what went wrong.
    pub fn text(&self, max_bytes: usize) -> String {
        let lines: Vec<&str> = self.0.iter().map(String::as_str).collect();
        let text = lines.join("\n");
        let text = text.trim();
        if text.len() <= max_bytes {
            return text.to_owned();
        }
        let mut start = text.len() - max_bytes.saturating_sub('…'.len_utf8());
        while !text.is_char_boundary(start) {
            start += 1;
        }
        format!("…{}", &text[start..])
    }
}

/// Reads until the end, telling each line and keeping the last ones. It may be dropped at any moment: what was read so far is in
/// the tail.
pub async fn read(mut from: impl AsyncRead + Unpin, tail: &mut Tail, tell: impl Fn(&str)) {
    let mut line = Vec::new();
    let mut chunk = vec![0; 16 * 1024];
    // An error is an end, too: there is nobody else to tell.
    while let Ok(read @ 1..) = from.read(&mut chunk).await {
        for byte in &chunk[..read] {
            let ends = *byte == b'\n';
            if !ends {
                line.push(*byte);
            }
            // A long line is not cut within a character.
            let full = line.len() >= MAX_LINE && (*byte & 0xC0) != 0x80 || line.len() >= MAX_LINE + 4;
            if ends || full {
                flush(&mut line, tail, &tell);
            }
        }
    }
    if !line.is_empty() {
        flush(&mut line, tail, &tell);
    }
}

fn flush(line: &mut Vec<u8>, tail: &mut Tail, tell: &impl Fn(&str)) {
    let text = String::from_utf8_lossy(line);
    let text = text.trim_end_matches('\r');
    tell(text);
    tail.push(text);
    line.clear();
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::RefCell;

    #[tokio::test]
    async fn lines_are_told_and_the_last_ones_kept() {
        let text: Vec<u8> = (0..50).flat_map(|n| format!("line {n}\r\n").into_bytes()).chain(*b"end\xff").collect();
        let (mut tail, told) = (Tail::default(), RefCell::new(Vec::new()));
        read(&text[..], &mut tail, |line| told.borrow_mut().push(line.to_owned())).await;
        assert_eq!(told.borrow().len(), 51);
        let text = tail.text(1_000);
        assert!(text.starts_with("line 31\n") && text.ends_with("end\u{fffd}"));
        assert_eq!(tail.text(18), "…\nline 49\nend\u{fffd}", "the end, and no more bytes than that");
    }

    #[tokio::test]
    async fn endless_lines_do_not_fill_memory() {
        let text = vec![b'x'; 1_000_000];
        let (mut tail, told) = (Tail::default(), RefCell::new(0));
        read(&text[..], &mut tail, |line| {
            assert!(line.len() <= MAX_LINE + 4);
            *told.borrow_mut() += 1;
        })
        .await;
        assert!(*told.borrow() >= 100);
    }
}
