//! One connection of the origin: reads requests, records them, plays the scripted answer.

use std::{
    io::{self, Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use nix::sys::socket::{setsockopt, sockopt};

use super::{Behaviour, Recorded, Shared};

/// Longest head that is read.
const MAX_HEAD_BYTES: usize = 1 << 20;

/// A connection on which nothing happens for so long belongs to a test that has failed.
const IDLE: Duration = Duration::from_mins(2);

/// Header fields of a head, in order.
pub(super) fn headers(head: &[u8]) -> Vec<(String, String)> {
    String::from_utf8_lossy(head)
        .split("\r\n")
        .skip(1)
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_owned(), value.trim().to_owned()))
        .collect()
}

/// Serves until either side closes.
pub(super) fn serve(shared: &Shared, number: u64, peer: SocketAddr, stream: TcpStream) {
    stream.set_read_timeout(Some(IDLE)).ok();
    stream.set_write_timeout(Some(IDLE)).ok();
    stream.set_nodelay(true).ok();
    let mut connection = Connection { shared, stream, buffer: Vec::new() };
    let mut nth = 0;
    while !shared.is_stopping() {
        let Ok(Some(head)) = connection.head() else {
            return;
        };
        let request = Recorded {
            connection: number,
            nth,
            peer,
            head,
            raw_body: Vec::new(),
            body: Vec::new(),
            complete: true,
        };
        // A connection that breaks is the peer's business; the test sees what was recorded.
        if !connection.answer(request).unwrap_or(false) {
            return;
        }
        nth += 1;
    }
}

struct Connection<'a> {
    shared: &'a Shared,
    stream: TcpStream,
    buffer: Vec<u8>,
}

impl Connection<'_> {
    /// The next head, or `None` when the peer closed before one.
    fn head(&mut self) -> io::Result<Option<Vec<u8>>> {
        loop {
            if let Some(at) = find(&self.buffer, b"\r\n\r\n") {
                return Ok(Some(self.buffer.drain(..at + 4).collect()));
            }
            if self.buffer.len() > MAX_HEAD_BYTES || !self.fill()? {
                return Ok(None);
            }
        }
    }

    /// Reads the body, records the request and answers. Whether the connection goes on.
    fn answer(&mut self, mut request: Recorded) -> io::Result<bool> {
        let target = request.target();
        let path = target.split('?').next().unwrap_or_default().to_owned();
        let mut behaviour = self.shared.behaviour(&path);
        let mut delay = Duration::ZERO;
        while let Behaviour::Delayed(more, then) = behaviour {
            delay += more;
            behaviour = *then;
        }
        if let Behaviour::AnswerBeforeBody(status) = behaviour {
            request.complete = false;
            self.record(request);
            self.write_answer(status, &[], b"")?;
            return Ok(false);
        }
        match &behaviour {
            Behaviour::Early(bytes) => self.stream.write_all(bytes)?,
            Behaviour::Deaf => {
                request.complete = false;
                self.record(request);
                self.shared.pause(IDLE);
                return Ok(false);
            }
            _ => {}
        }
        let streamed = matches!(behaviour, Behaviour::EchoStreamed);
        if streamed {
            let content_type = content_type(&request);
            let head = format!(
                "HTTP/1.1 200 OK\r\nContent-Type: {content_type}\r\nTransfer-Encoding: chunked\r\n\r\n"
            );
            self.stream.write_all(head.as_bytes())?;
        }
        if request
            .header_values("expect")
            .iter()
            .any(|value| value.eq_ignore_ascii_case("100-continue"))
        {
            self.stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n")?;
        }
        let read = self.body(&mut request, streamed);
        request.complete = matches!(read, Ok(true));
        let closing = request
            .header_values("connection")
            .iter()
            .any(|value| value.eq_ignore_ascii_case("close"));
        let answered = request.clone();
        self.record(request);
        if !read? {
            return Ok(false);
        }
        self.shared.pause(delay);
        Ok(self.play(behaviour, &answered)? && !closing)
    }

    fn play(&mut self, behaviour: Behaviour, request: &Recorded) -> io::Result<bool> {
        match behaviour {
            Behaviour::Answer(status, headers, body) => {
                if request.method() == "HEAD" {
                    self.stream.write_all(&answer_head(status, &headers, body.len()))?;
                } else {
                    self.write_answer(status, &headers, &body)?;
                }
            }
            Behaviour::Chunked(chunks, pause) => {
                self.stream.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")?;
                for chunk in chunks {
                    self.shared.pause(pause);
                    self.write_chunk(&chunk)?;
                }
                self.stream.write_all(b"0\r\n\r\n")?;
            }
            Behaviour::Echo => {
                let headers = [("Content-Type".to_owned(), content_type(request))];
                self.write_answer(200, &headers, &request.body)?;
            }
            Behaviour::EchoStreamed => self.stream.write_all(b"0\r\n\r\n")?,
            Behaviour::Stall => {
                while self.fill()? {}
                return Ok(false);
            }
            Behaviour::CloseMidBody(announced, body) => {
                let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {announced}\r\n\r\n");
                self.stream.write_all(head.as_bytes())?;
                self.stream.write_all(&body)?;
                return Ok(false);
            }
            Behaviour::Reset => {
                let linger = libc::linger { l_onoff: 1, l_linger: 0 };
                setsockopt(&self.stream, sockopt::Linger, &linger)?;
                // The list of live connections holds a duplicate, which would keep it open.
                self.shared.forget(request.connection);
                return Ok(false);
            }
            Behaviour::Raw(bytes) => self.stream.write_all(&bytes)?,
            Behaviour::RawThenClose(bytes) => {
                self.stream.write_all(&bytes)?;
                return Ok(false);
            }
            Behaviour::Tunnel(bytes) => {
                self.stream.write_all(&bytes)?;
                loop {
                    let bytes = std::mem::take(&mut self.buffer);
                    self.stream.write_all(&bytes)?;
                    if bytes.ends_with(b"bye") || !self.fill()? {
                        return Ok(false);
                    }
                }
            }
            Behaviour::Early(_)
            | Behaviour::Deaf
            | Behaviour::CloseBeforeAnswer
            | Behaviour::AnswerBeforeBody(_)
            | Behaviour::Delayed(..) => return Ok(false),
        }
        Ok(true)
    }

    /// Reads the body into the record; false when the peer closed or its framing is not understood.
    fn body(&mut self, request: &mut Recorded, streamed: bool) -> io::Result<bool> {
        let chunked = request
            .header_values("transfer-encoding")
            .iter()
            .any(|value| value.eq_ignore_ascii_case("chunked"));
        if chunked {
            return self.chunked_body(request, streamed);
        }
        let length = request.header_values("content-length").first().cloned();
        let Some(length) = length else {
            return Ok(true);
        };
        let Ok(length) = length.parse::<usize>() else {
            return Ok(false);
        };
        while request.body.len() < length {
            if self.buffer.is_empty() && !self.fill()? {
                return Ok(false);
            }
            let count = self.buffer.len().min(length - request.body.len());
            let part: Vec<u8> = self.buffer.drain(..count).collect();
            if streamed {
                self.write_chunk(&part)?;
            }
            request.raw_body.extend_from_slice(&part);
            request.body.extend(part);
        }
        Ok(true)
    }

    fn chunked_body(&mut self, request: &mut Recorded, streamed: bool) -> io::Result<bool> {
        loop {
            let Some(line) = self.line()? else {
                return Ok(false);
            };
            request.raw_body.extend_from_slice(&line);
            let text = String::from_utf8_lossy(&line).into_owned();
            let size = text.trim_end().split(';').next().unwrap_or_default();
            let Ok(size) = usize::from_str_radix(size, 16) else {
                return Ok(false);
            };
            if size == 0 {
                loop {
                    let Some(trailer) = self.line()? else {
                        return Ok(false);
                    };
                    request.raw_body.extend_from_slice(&trailer);
                    if trailer == b"\r\n" {
                        return Ok(true);
                    }
                }
            }
            while self.buffer.len() < size + 2 {
                if !self.fill()? {
                    request.raw_body.append(&mut self.buffer);
                    return Ok(false);
                }
            }
            let chunk: Vec<u8> = self.buffer.drain(..size + 2).collect();
            request.raw_body.extend_from_slice(&chunk);
            request.body.extend_from_slice(&chunk[..size]);
            if streamed {
                self.write_chunk(&chunk[..size])?;
            }
        }
    }

    fn line(&mut self) -> io::Result<Option<Vec<u8>>> {
        loop {
            if let Some(at) = find(&self.buffer, b"\r\n") {
                return Ok(Some(self.buffer.drain(..at + 2).collect()));
            }
            if self.buffer.len() > MAX_HEAD_BYTES || !self.fill()? {
                return Ok(None);
            }
        }
    }

    /// Receives once; false at the end.
    fn fill(&mut self) -> io::Result<bool> {
        let mut bytes = [0; 16 << 10];
        let count = self.stream.read(&mut bytes)?;
        self.buffer.extend_from_slice(&bytes[..count]);
        Ok(count > 0)
    }

    fn write_answer(
        &mut self,
        status: u16,
        headers: &[(String, String)],
        body: &[u8],
    ) -> io::Result<()> {
        let mut bytes = answer_head(status, headers, body.len());
        bytes.extend_from_slice(body);
        self.stream.write_all(&bytes)
    }

    fn write_chunk(&mut self, chunk: &[u8]) -> io::Result<()> {
        let mut bytes = format!("{:x}\r\n", chunk.len()).into_bytes();
        bytes.extend_from_slice(chunk);
        bytes.extend_from_slice(b"\r\n");
        self.stream.write_all(&bytes)
    }

    fn record(&self, request: Recorded) {
        self.shared.state().recorded.push(request);
        self.shared.changed.notify_all();
    }
}

fn answer_head(status: u16, headers: &[(String, String)], length: usize) -> Vec<u8> {
    let mut head = format!("HTTP/1.1 {status} Scripted\r\n");
    for (name, value) in headers {
        head.extend([name, ": ", value, "\r\n"]);
    }
    if status != 204 && status != 304 {
        head.extend(["Content-Length: ", &length.to_string(), "\r\n"]);
    }
    head.push_str("\r\n");
    head.into_bytes()
}

fn content_type(request: &Recorded) -> String {
    let values = request.header_values("content-type");
    values.first().cloned().unwrap_or_else(|| "application/octet-stream".to_owned())
}

fn find(bytes: &[u8], wanted: &[u8]) -> Option<usize> {
    bytes.windows(wanted.len()).position(|window| window == wanted)
}
