//! The little HTTP that the harness speaks itself: one request a connection,
//! over blocking sockets. It is plain text on the loopback interface, so a
//! library would only add features to the crates the functions are built from
//! (and cargo would then compile the SDK twice).

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// A request or an answer: its first line, headers and body.
#[derive(Clone, Debug, Default)]
pub struct Message {
    /// `POST / HTTP/1.1` or `HTTP/1.1 200 OK`.
    pub start: String,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
    /// The body, chunks joined.
    pub body: Vec<u8>,
}

impl Message {
    /// A request to `target` with a body.
    #[must_use]
    pub fn request(method: &str, target: &str, headers: &[(&str, &str)], body: &[u8]) -> Self {
        Self {
            start: format!("{method} {target} HTTP/1.1"),
            headers: headers
                .iter()
                .map(|(k, v)| (k.to_ascii_lowercase(), (*v).to_owned()))
                .collect(),
            body: body.to_vec(),
        }
    }

    /// An answer with a body.
    #[must_use]
    pub fn answer(status: u16, headers: &[(&str, &str)], body: &str) -> Self {
        Self {
            start: format!("HTTP/1.1 {status} Injected"),
            ..Self::request("", "", headers, body.as_bytes())
        }
    }

    /// The value of a header, by its name in lower case.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(k, _)| k == name)
            .map(|(_, v)| v.as_str())
    }

    /// The status of an answer; 0 when there is none.
    #[must_use]
    pub fn status(&self) -> u16 {
        self.start
            .split(' ')
            .nth(1)
            .and_then(|s| s.parse().ok())
            .unwrap_or(0)
    }

    /// The body as text.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// Reads one message; None when the other side closed before one began.
    pub fn read(stream: &TcpStream) -> io::Result<Option<Self>> {
        let mut reader = BufReader::new(stream);
        let mut message = Self::default();
        if reader.read_line(&mut message.start)? == 0 {
            return Ok(None);
        }
        message.start.truncate(message.start.trim_end().len());
        loop {
            let mut line = String::new();
            reader.read_line(&mut line)?;
            let Some((name, value)) = line.trim_end().split_once(':') else {
                break;
            };
            message
                .headers
                .push((name.to_ascii_lowercase(), value.trim().to_owned()));
        }
        if let Some(length) = message.header("content-length") {
            message.body = vec![0; length.parse().map_err(io::Error::other)?];
            reader.read_exact(&mut message.body)?;
        } else if message
            .header("transfer-encoding")
            .is_some_and(|v| v.contains("chunked"))
        {
            loop {
                let mut size = String::new();
                reader.read_line(&mut size)?;
                let size = usize::from_str_radix(size.split(';').next().unwrap_or("").trim(), 16)
                    .map_err(io::Error::other)?;
                let mut chunk = vec![0; size + 2];
                reader.read_exact(&mut chunk)?;
                if size == 0 {
                    break;
                }
                message.body.extend_from_slice(&chunk[..size]);
            }
        } else if message.start.starts_with("HTTP/") {
            reader.read_to_end(&mut message.body)?;
        }
        Ok(Some(message))
    }

    /// Writes the message; always one a connection.
    pub fn write(&self, mut stream: &TcpStream) -> io::Result<()> {
        let mut out = format!("{}\r\n", self.start).into_bytes();
        for (name, value) in &self.headers {
            if !matches!(
                name.as_str(),
                "connection" | "content-length" | "transfer-encoding"
            ) {
                out.extend_from_slice(format!("{name}: {value}\r\n").as_bytes());
            }
        }
        out.extend_from_slice(
            format!(
                "content-length: {}\r\nconnection: close\r\n\r\n",
                self.body.len()
            )
            .as_bytes(),
        );
        out.extend_from_slice(&self.body);
        stream.write_all(&out)?;
        stream.flush()
    }

    /// Sends the request to `to` and reads the answer.
    pub fn send(&self, to: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect_timeout(&to, Duration::from_secs(5))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(Duration::from_secs(120)))?;
        self.write(&stream)?;
        Self::read(&stream)?
            .ok_or_else(|| io::Error::new(io::ErrorKind::UnexpectedEof, "closed without an answer"))
    }
}

/// Decodes `a=b&c=d` as HTML forms and the AWS query protocol write it.
#[must_use]
pub fn parse_form(text: &str) -> Vec<(String, String)> {
    text.split('&')
        .filter_map(|pair| pair.split_once('='))
        .map(|(k, v)| (percent_decode(k), percent_decode(v)))
        .collect()
}

/// Encodes a form.
#[must_use]
pub fn write_form(fields: &[(&str, &str)]) -> String {
    let encode = |text: &str| {
        text.bytes()
            .map(|b| match b {
                b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => {
                    char::from(b).to_string()
                }
                _ => format!("%{b:02X}"),
            })
            .collect::<String>()
    };
    fields
        .iter()
        .map(|(k, v)| format!("{}={}", encode(k), encode(v)))
        .collect::<Vec<_>>()
        .join("&")
}

fn percent_decode(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut i = 0;
    while i < bytes.len() {
        let hex = text
            .get(i + 1..i + 3)
            .and_then(|h| u8::from_str_radix(h, 16).ok());
        match (bytes[i], hex) {
            (b'+', _) => out.push(b' '),
            (b'%', Some(byte)) => {
                out.push(byte);
                i += 2;
            }
            (other, _) => out.push(other),
        }
        i += 1;
    }
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms_come_back_as_they_went() {
        let fields = [
            ("Action", "RevokeSecurityGroupIngress"),
            ("Description", "a b&c=d+é %"),
        ];
        let read = parse_form(&write_form(&fields));
        assert_eq!(read, fields.map(|(k, v)| (k.to_owned(), v.to_owned())));
    }
}
