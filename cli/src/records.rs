//! The records of a file, one at a time, in whatever form people have them:
//!
//! | form | where it comes from |
//! | --- | --- |
//! | `{"Records": […]}` | CloudTrail's log files |
//! | `{"Events": […]}` | `aws cloudtrail lookup-events` |
//! | `[…]` | a selection of either, made with `jq` or `--query` |
//! | one value after the other, on lines of their own or not | `jq -c`, EventBridge's archive by way of Firehose |
//! | one value | a record, or an event of EventBridge |
//!
//! Each with or without a byte order mark and gzip, in UTF-8 or UTF-16. A file may be larger than
//! memory: one record is held at a time, and one that is broken costs itself.
//! Deliberately not here: what a value is a record of (`replay`).

use std::fs::File;
use std::io::{self, BufRead, BufReader, Cursor, Read};
use std::path::Path;

use backstop_core::json;
use flate2::bufread::MultiGzDecoder;

/// Most bytes of a record that is read. CloudTrail's have at most 1 MB.
const MOST_BYTES: usize = 2 * 1024 * 1024;

/// The lists whose items are records, by the key that they stand under.
const LISTS: [&[u8]; 2] = [br#""Records""#, br#""Events""#];

/// Takes one value of a file; `None`: it is too large to be read.
pub(crate) type Take<'a> = &'a mut dyn FnMut(Option<&[u8]>);

/// Reads a file. Whether it holds a list of records by name, as a log file does.
pub(crate) fn read(path: &Path, take: Take<'_>) -> Result<bool, String> {
    let name = path.to_string_lossy();
    let mut file = BufReader::new(File::open(path).map_err(|error| error.to_string())?);
    let packed = starts_with(&mut file, &[0x1f, 0x8b]).map_err(|error| error.to_string())?;
    if !packed && name.ends_with(".gz") {
        return Err("it cannot be unpacked: it is not gzip".to_owned());
    }
    let failed = |error: io::Error| match packed {
        true => format!("it cannot be unpacked: {error}"),
        false if error.kind() == io::ErrorKind::InvalidData => format!("it is not JSON: {error}"),
        false => error.to_string(),
    };
    let mut from: Box<dyn BufRead> = match packed {
        true => Box::new(BufReader::new(MultiGzDecoder::new(file))),
        false => Box::new(file),
    };
    for (mark, unit) in UTF_16 {
        if starts_with(&mut from, &mark).map_err(failed)? {
            from.consume(mark.len());
            from = Box::new(BufReader::new(Utf16::new(from, unit)));
            break;
        }
    }
    let mark = [0xef, 0xbb, 0xbf];
    if starts_with(&mut from, &mark).map_err(failed)? {
        from.consume(mark.len());
    }
    let lines = [".jsonl", ".ndjson"];
    let lines = lines
        .iter()
        .any(|end| name.trim_end_matches(".gz").ends_with(end));
    values(from, lines, take).map_err(failed)
}

fn starts_with(from: &mut impl BufRead, bytes: &[u8]) -> io::Result<bool> {
    Ok(from.fill_buf()?.starts_with(bytes))
}

/// One code unit of two bytes.
type Unit = fn([u8; 2]) -> u16;

/// The marks that UTF-16 begins with: it is what PowerShell writes with `>`.
const UTF_16: [([u8; 2], Unit); 2] = [
    ([0xff, 0xfe], u16::from_le_bytes),
    ([0xfe, 0xff], u16::from_be_bytes),
];

/// UTF-16 as UTF-8. Half a surrogate pair becomes U+FFFD.
struct Utf16<R> {
    from: R,
    unit: Unit,
    /// The first half of a pair, whose other half is to be read.
    half: Option<u16>,
    text: Cursor<Vec<u8>>,
}

impl<R: Read> Utf16<R> {
    fn new(from: R, unit: Unit) -> Self {
        Self {
            from,
            unit,
            half: None,
            text: Cursor::default(),
        }
    }

    /// Reads on; `false`: it has ended.
    fn read_on(&mut self) -> io::Result<bool> {
        let mut bytes = Vec::new();
        self.from.by_ref().take(8_192).read_to_end(&mut bytes)?;
        let (pairs, _) = bytes.as_chunks();
        let mut units: Vec<u16> = self.half.take().into_iter().collect();
        units.extend(pairs.iter().map(|pair| (self.unit)(*pair)));
        if !pairs.is_empty() {
            self.half = units.pop_if(|last| (0xd800..0xdc00).contains(last));
        }
        let chars = char::decode_utf16(units);
        let text: String = chars
            .map(|char| char.unwrap_or(char::REPLACEMENT_CHARACTER))
            .collect();
        self.text = Cursor::new(text.into_bytes());
        Ok(!bytes.is_empty())
    }
}

impl<R: Read> Read for Utf16<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        loop {
            let read = self.text.read(into)?;
            if read > 0 || into.is_empty() {
                return Ok(read);
            }
            if !self.read_on()? && self.text.get_ref().is_empty() {
                return Ok(0);
            }
        }
    }
}

/// Where the first line is a value, every line is read by itself, so that one that
/// was cut off does not take the next ones with it.
fn values(mut from: impl BufRead, lines: bool, take: Take<'_>) -> io::Result<bool> {
    let mut line = Vec::new();
    if !next_line(&mut from, &mut line)? || !(lines || json::value(&line).is_ok()) {
        return Scanner::new(Cursor::new(line).chain(from)).file(take);
    }
    let mut list = false;
    loop {
        match Scanner::new(line.as_slice()).file(take) {
            Ok(is_list) => list |= is_list,
            Err(_) => take(Some(&line)),
        }
        line.clear();
        while !next_line(&mut from, &mut line)? {
            // Of a line that is too long nothing is read.
            take(None);
            line.clear();
            from.skip_until(b'\n')?;
        }
        if line.is_empty() {
            return Ok(list);
        }
    }
}

/// Reads a line with its end, nothing at the end of the file; `false`: it is too
/// long, and this is its beginning.
fn next_line(from: &mut impl BufRead, line: &mut Vec<u8>) -> io::Result<bool> {
    let most = u64::try_from(MOST_BYTES).unwrap_or(u64::MAX);
    from.take(most).read_until(b'\n', line)?;
    Ok(line.len() < MOST_BYTES || line.ends_with(b"\n"))
}

/// Finds where values begin and end. What is between them is left to the parser.
struct Scanner<R> {
    from: R,
    /// The value, as far as it has been read.
    value: Vec<u8>,
    /// The value is larger than what is held of it.
    is_too_large: bool,
}

impl<R: BufRead> Scanner<R> {
    fn new(from: R) -> Self {
        Self {
            from,
            value: Vec::new(),
            is_too_large: false,
        }
    }

    /// Takes the values of a file; whether a list by name is among them.
    fn file(&mut self, take: Take<'_>) -> io::Result<bool> {
        let mut list = false;
        while let Some(byte) = self.peek()? {
            match byte {
                b'{' => list |= self.object(take)?,
                b'[' => self.items(take)?,
                b'"' => self.whole(take)?,
                _ => return Err(no_json("it holds something else than objects and lists")),
            }
        }
        Ok(list)
    }

    /// Takes an object, or the items of the list in it.
    fn object(&mut self, take: Take<'_>) -> io::Result<bool> {
        let mut list = false;
        self.start();
        self.from.consume(1);
        self.hold(b"{");
        loop {
            match self.peek()?.ok_or_else(cut_off)? {
                b'}' => break,
                b'"' => {}
                _ => return Err(no_json("a key is missing")),
            }
            let key = self.value.len();
            self.copy()?;
            let is_list = self
                .value
                .get(key..)
                .is_some_and(|key| LISTS.contains(&key));
            if self.peek()? != Some(b':') {
                return Err(no_json("a colon is missing"));
            }
            self.from.consume(1);
            self.hold(b":");
            if self.peek()? == Some(b'[') && is_list {
                list = true;
                self.items(take)?;
                // Nothing else in the object is of interest.
                self.start();
                continue;
            }
            self.copy()?;
            self.hold(b",");
        }
        self.from.consume(1);
        if !list {
            if self.value.ends_with(b",") {
                self.value.pop();
            }
            self.hold(b"}");
            self.give(take);
        }
        Ok(list)
    }

    /// Takes each item of a list.
    fn items(&mut self, take: Take<'_>) -> io::Result<()> {
        self.from.consume(1);
        while self.peek()?.ok_or_else(cut_off)? != b']' {
            self.whole(take)?;
        }
        self.from.consume(1);
        Ok(())
    }

    /// Takes the value that comes next, whatever it is.
    fn whole(&mut self, take: Take<'_>) -> io::Result<()> {
        self.start();
        self.copy()?;
        self.give(take);
        Ok(())
    }

    fn start(&mut self) {
        self.value.clear();
        self.is_too_large = false;
    }

    fn give(&self, take: Take<'_>) {
        take((!self.is_too_large).then_some(self.value.as_slice()));
    }

    fn hold(&mut self, bytes: &[u8]) {
        if self.value.len() + bytes.len() > MOST_BYTES {
            self.is_too_large = true;
        } else {
            self.value.extend_from_slice(bytes);
        }
    }

    /// The next byte that is neither white space nor a comma.
    fn peek(&mut self) -> io::Result<Option<u8>> {
        loop {
            let bytes = self.from.fill_buf()?;
            let blank = |byte: &&u8| matches!(byte, b' ' | b'\t' | b'\r' | b'\n' | b',');
            let blanks = bytes.iter().take_while(blank).count();
            let next = bytes.get(blanks).copied();
            let at_end = bytes.is_empty();
            self.from.consume(blanks);
            if next.is_some() || at_end {
                return Ok(next);
            }
        }
    }

    /// Copies the value that comes next: to its closing bracket or quotation mark,
    /// a number or a word to what follows it.
    fn copy(&mut self) -> io::Result<()> {
        let (mut depth, mut in_text, mut escaped, mut begun) = (0_usize, false, false, false);
        loop {
            let bytes = self.from.fill_buf()?;
            if bytes.is_empty() {
                return Err(cut_off());
            }
            let (mut used, mut ended) = (0, false);
            for byte in bytes {
                let outside = depth == 0 && !in_text;
                if outside && begun && b" \t\r\n,:]}".contains(byte) {
                    ended = true;
                    break;
                }
                begun = true;
                used += 1;
                match byte {
                    _ if escaped => escaped = false,
                    b'\\' if in_text => escaped = true,
                    b'"' => in_text = !in_text,
                    b'{' | b'[' if !in_text => depth += 1,
                    b'}' | b']' if !in_text => depth = depth.saturating_sub(1),
                    _ => continue,
                }
                if depth == 0 && !in_text {
                    ended = true;
                    break;
                }
            }
            let room = MOST_BYTES.saturating_sub(self.value.len());
            self.value.extend(bytes.iter().take(used.min(room)));
            self.is_too_large |= used > room;
            self.from.consume(used);
            if ended {
                return Ok(());
            }
        }
    }
}

fn cut_off() -> io::Error {
    no_json("it ends in the middle of a value")
}

fn no_json(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(text: &[u8], lines: bool) -> (Vec<String>, Result<bool, String>) {
        let mut taken = Vec::new();
        let mut take = |value: Option<&[u8]>| {
            let text = value.map_or("too large".into(), String::from_utf8_lossy);
            taken.push(text.trim_end().to_owned());
        };
        // In pieces of every size, so that no place between two of them matters.
        let read = values(text, lines, &mut take).map_err(|error| error.to_string());
        for size in [1, 2, 3, 7] {
            let mut again = Vec::new();
            let mut take = |value: Option<&[u8]>| {
                let text = value.map_or("too large".into(), String::from_utf8_lossy);
                again.push(text.trim_end().to_owned());
            };
            let pieces = BufReader::with_capacity(size, text);
            let read_again = values(pieces, lines, &mut take).map_err(|error| error.to_string());
            assert_eq!(read_again, read);
            assert_eq!(again, taken, "in pieces of {size}");
        }
        (taken, read)
    }

    #[test]
    fn values_are_found_in_every_form() {
        let two = vec![
            r#"{"a":"}]\"{"}"#.to_owned(),
            r#"{"b":[1,{"c":[]}]}"#.to_owned(),
        ];
        let [a, b] = two.as_slice() else {
            panic!("there are two");
        };
        for (text, list) in [
            (format!(r#"{{"Records":[{a},{b}]}}"#), true),
            (format!("{{ \"Records\" : [\n  {a} ,\n  {b}\n] }}\n"), true),
            (
                format!(r#"{{"NextToken":"n","Events":[{a},{b}],"more":{{"d":[2]}}}}"#),
                true,
            ),
            (
                format!("{{\"Records\":[{a}]}}\n{{\"Records\":[{b}]}}\n"),
                true,
            ),
            (format!("[{a},{b}]"), false),
            (format!("{a}\n{b}\n"), false),
            (format!("{a}\r\n\r\n{b}"), false),
            (format!("{a}{b}"), false),
        ] {
            assert_eq!(
                taken(text.as_bytes(), false),
                (two.clone(), Ok(list)),
                "{text}"
            );
        }
        for (text, expected) in [
            ("{}", vec!["{}"]),
            (
                "{\n \"a\" : 1 , \"b\" : [ ]\n}\n",
                vec![r#"{"a":1,"b":[ ]}"#],
            ),
            (r#"{"Records":{"a":1}}"#, vec![r#"{"Records":{"a":1}}"#]),
            (
                r#"["{}",1,null,true]"#,
                vec![r#""{}""#, "1", "null", "true"],
            ),
            (r#"{"Records":[]}"#, vec![]),
            ("[]", vec![]),
            ("", vec![]),
            ("\n", vec![]),
        ] {
            assert_eq!(taken(text.as_bytes(), false).0, expected, "{text}");
        }
    }

    #[test]
    fn utf_16_is_read_in_either_order_of_its_bytes() {
        // A pair lies across the places where it is read in pieces.
        let text = format!("{}😀ü", "x".repeat(4_095));
        for (n, (_, unit)) in UTF_16.into_iter().enumerate() {
            let bytes = |unit: u16| {
                if n == 0 {
                    unit.to_le_bytes()
                } else {
                    unit.to_be_bytes()
                }
            };
            let mut encoded: Vec<u8> = text.encode_utf16().flat_map(bytes).collect();
            encoded.extend(bytes(0xd83d));
            let mut read = String::new();
            let mut reader = Utf16::new(encoded.as_slice(), unit);
            reader.read_to_string(&mut read).unwrap();
            assert_eq!(read, format!("{text}\u{fffd}"));
        }
    }

    #[test]
    fn a_broken_value_costs_itself() {
        let (found, read) = taken(b"{\"a\":1}\n{\"b\":\n{\"c\":\"\n{\"d\":4}\n", false);
        assert_eq!(found, [r#"{"a":1}"#, r#"{"b":"#, r#"{"c":""#, r#"{"d":4}"#]);
        assert_eq!(read, Ok(false));
        let (found, _) = taken(b"{\"a\":\n{\"b\":2}\n", true);
        assert_eq!(found, [r#"{"a":"#, r#"{"b":2}"#]);
        let (found, read) = taken(br#"{"Records":[{"a":1},{"b" 2},{"c":3}]}"#, false);
        assert_eq!(found, [r#"{"a":1}"#, r#"{"b" 2}"#, r#"{"c":3}"#]);
        assert_eq!(read, Ok(true));
        let large = format!("{{\"a\":\"{}\"}}", "x".repeat(MOST_BYTES));
        let of = |text: String, lines| {
            let mut found = Vec::new();
            let mut take = |value: Option<&[u8]>| found.push(value.map(<[u8]>::to_vec));
            values(text.as_bytes(), lines, &mut take).unwrap();
            found
        };
        let kept = [
            Some(b"{\"b\":1}".to_vec()),
            None,
            Some(b"{\"b\":2}".to_vec()),
        ];
        assert_eq!(
            of(format!("[{{\"b\":1}},{large},{{\"b\":2}}]"), false),
            kept
        );
        let lines = of(format!("{{\"b\":1}}\n{large}\n{{\"b\":2}}"), false);
        assert_eq!(
            lines.iter().map(Option::is_some).collect::<Vec<_>>(),
            [true, false, true]
        );
    }

    #[test]
    fn what_is_no_json_or_is_cut_off_is_an_error() {
        for text in [
            "{",
            "[",
            "[1",
            "{\"Records\":[{}",
            "{\"a\"",
            "{\"a\":",
            "\"a",
            "{1:2}",
            "no",
            "\0",
        ] {
            let (_, read) = taken(text.as_bytes(), false);
            assert!(read.is_err(), "{text}");
        }
        let (found, read) = taken(b"{\"Records\":[{\"a\":1},{\"b\"", false);
        assert_eq!(found, [r#"{"a":1}"#], "what was whole is not lost");
        assert!(read.unwrap_err().contains("ends in the middle"));
    }
}
