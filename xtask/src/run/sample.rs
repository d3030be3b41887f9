//! The built-in sample API: answers every request with a line of JSON that says what arrived.
//! HTTP/1.1 with keep-alive, a thread per connection, a bounded number of them.

use std::{
    io::{BufReader, Write},
    net::{TcpListener, TcpStream},
    sync::Arc,
    thread,
    time::Duration,
};

use anyhow::Result;
use serde_json::json;

use super::wire::{Head, read_head, skip_body};

const CONNECTIONS: usize = 256;
const IDLE_LIMIT: Duration = Duration::from_mins(5);

/// Serves until the process ends.
pub(super) fn serve(listener: &TcpListener) {
    let slots = Arc::new(());
    for stream in listener.incoming().flatten() {
        // Each connection holds one reference; beyond the bound the connection is closed.
        if Arc::strong_count(&slots) > CONNECTIONS {
            continue;
        }
        let slot = Arc::clone(&slots);
        thread::spawn(move || {
            // A peer that goes away or sends nonsense ends its connection, nothing else.
            drop(converse(&stream));
            drop(slot);
        });
    }
}

fn converse(stream: &TcpStream) -> Result<()> {
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(IDLE_LIMIT))?;
    let mut reader = BufReader::new(stream);
    while let Some(head) = read_head(&mut reader)? {
        let length = skip_body(&mut reader, &head)?;
        let mut writer = stream;
        writer.write_all(answer(&head, length).as_bytes())?;
        if head.closes() {
            break;
        }
    }
    Ok(())
}

fn answer(head: &Head, length: u64) -> String {
    let mut words = head.first.split(' ');
    let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let body = json!({
        "message": "Hello from the sample API behind limiter",
        "method": method,
        "target": target,
        "body_bytes": length,
        "request_id": head.field("x-request-id"),
    });
    let body = format!("{body}\n");
    let head = format!(
        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    if method == "HEAD" { head } else { head + &body }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    #[test]
    fn requests_on_one_connection_are_answered_in_order() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        thread::spawn(move || serve(&listener));
        let mut stream = TcpStream::connect(address).unwrap();
        let requests = "POST /a HTTP/1.1\r\nContent-Length: 2\r\n\r\nxyHEAD /b HTTP/1.1\r\n\r\n\
                        GET /c HTTP/1.1\r\nConnection: close\r\n\r\n";
        stream.write_all(requests.as_bytes()).unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        assert_eq!(text.matches("HTTP/1.1 200 OK\r\n").count(), 3, "{text}");
        assert!(text.contains("\"target\":\"/a\"") && text.contains("\"body_bytes\":2"), "{text}");
        assert!(!text.contains("/b") && text.contains("\"target\":\"/c\""), "{text}");
    }
}
