//! One client of the demonstration, a process in the clients' namespace: sends requests or
//! datagrams from one of its addresses and prints a JSON line per answer. Ends in bounded time.
#![expect(clippy::print_stdout, reason = "its output is read by the process that shows")]

use std::{
    fs,
    io::{BufReader, Write},
    net::{IpAddr, SocketAddr, TcpStream, UdpSocket},
    path::PathBuf,
    thread,
    time::Duration,
};

use anyhow::{Context, Result};
use clap::Args;
use serde_json::{Map, Value, json};
use socket2::{Domain, Socket, Type};

use super::wire::{Head, read_head, skip_body};

/// Datagrams between two pauses.
const BURST: u32 = 16;
const PAUSE: Duration = Duration::from_millis(1);
/// Longest that one may be.
const DATAGRAM: [u8; 64] = [0; 64];

#[derive(Debug, Args)]
pub(crate) struct HttpArgs {
    /// Own address
    #[arg(long)]
    from: IpAddr,
    #[arg(long)]
    to: SocketAddr,
    #[arg(long, default_value_t = 1)]
    count: u32,
    /// A new connection for each request
    #[arg(long)]
    fresh: bool,
    #[arg(long, default_value = "GET")]
    method: String,
    #[arg(long, default_value = "/")]
    path: String,
    /// `Name: value`; `{n}` is the number of the request
    #[arg(long)]
    header: Vec<String>,
    /// Sent as X-API-Key, and on no command line
    #[arg(long)]
    key_file: Option<PathBuf>,
    /// To connect, and for each answer
    #[arg(long, default_value_t = 5_000)]
    timeout_ms: u64,
}

#[derive(Debug, Args)]
pub(crate) struct UdpArgs {
    /// Own address
    #[arg(long)]
    from: IpAddr,
    #[arg(long)]
    to: SocketAddr,
    #[arg(long)]
    count: u32,
}

/// Prints `{"status": 200, "fields": {...}}` or `{"error": "..."}` for each request.
pub(super) fn http(args: &HttpArgs) -> Result<()> {
    let key = match &args.key_file {
        Some(path) => Some(
            fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?,
        ),
        None => None,
    };
    let mut connection = None;
    for number in 0..args.count {
        if args.fresh {
            connection = None;
        }
        let answer = connection.take().map_or_else(|| connect(args), Ok).and_then(|mut reader| {
            let head = exchange(&mut reader, &request(args, key.as_deref(), number))?;
            Ok((head, reader))
        });
        match answer {
            Ok((head, reader)) => {
                if !head.closes() {
                    connection = Some(reader);
                }
                println!("{}", json!({ "status": head.status()?, "fields": fields(&head) }));
            }
            Err(error) => println!("{}", json!({ "error": format!("{error:#}") })),
        }
    }
    Ok(())
}

fn request(args: &HttpArgs, key: Option<&str>, number: u32) -> String {
    let number = number.to_string();
    let mut lines =
        vec![format!("{} {} HTTP/1.1", args.method, args.path), "Host: api.example.com".to_owned()];
    lines.extend(args.header.iter().map(|header| header.replace("{n}", &number)));
    lines.extend(key.map(|key| format!("X-API-Key: {}", key.trim())));
    lines.join("\r\n") + "\r\n\r\n"
}

fn connect(args: &HttpArgs) -> Result<BufReader<TcpStream>> {
    let timeout = Duration::from_millis(args.timeout_ms);
    let socket = Socket::new(Domain::for_address(args.to), Type::STREAM, None)?;
    socket.bind(&SocketAddr::new(args.from, 0).into()).context("no such address here")?;
    socket.connect_timeout(&args.to.into(), timeout).context("no connection")?;
    let stream = TcpStream::from(socket);
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(timeout))?;
    stream.set_write_timeout(Some(timeout))?;
    Ok(BufReader::new(stream))
}

fn exchange(reader: &mut BufReader<TcpStream>, request: &str) -> Result<Head> {
    reader.get_mut().write_all(request.as_bytes()).context("connection closed")?;
    let head = read_head(reader).context("no answer")?.context("connection closed")?;
    if head.status()? != 204 {
        skip_body(reader, &head)?;
    }
    Ok(head)
}

fn fields(head: &Head) -> Map<String, Value> {
    head.fields.iter().map(|(name, value)| (name.clone(), Value::from(value.as_str()))).collect()
}

/// Prints how many datagrams were sent.
pub(super) fn udp(args: &UdpArgs) -> Result<()> {
    let socket = UdpSocket::bind(SocketAddr::new(args.from, 0)).context("no such address here")?;
    let mut sent = 0_u32;
    for number in 1..=args.count {
        // What the own queue refuses is not sent; the number printed says so.
        sent += u32::from(socket.send_to(&DATAGRAM, args.to).is_ok());
        if number % BURST == 0 {
            thread::sleep(PAUSE);
        }
    }
    println!("{sent}");
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;
    use crate::run::sample;

    fn args(to: SocketAddr) -> HttpArgs {
        HttpArgs {
            from: [127, 0, 0, 1].into(),
            to,
            count: 1,
            fresh: false,
            method: "GET".to_owned(),
            path: "/x".to_owned(),
            header: vec!["X-Number: {n}".to_owned()],
            key_file: None,
            timeout_ms: 5_000,
        }
    }

    #[test]
    fn requests_are_numbered_and_carry_the_key() {
        let text = request(&args("127.0.0.1:1".parse().unwrap()), Some("k\n"), 7);
        assert_eq!(
            text,
            "GET /x HTTP/1.1\r\nHost: api.example.com\r\nX-Number: 7\r\nX-API-Key: k\r\n\r\n"
        );
    }

    #[test]
    fn the_sample_answers_the_client() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let args = args(listener.local_addr().unwrap());
        thread::spawn(move || sample::serve(&listener));
        let mut reader = connect(&args).unwrap();
        for number in 0..2 {
            let head = exchange(&mut reader, &request(&args, None, number)).unwrap();
            assert_eq!(head.status().unwrap(), 200);
            assert_eq!(head.field("content-type"), Some("application/json"));
        }
    }

    #[test]
    fn nobody_there_is_said() {
        let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let error = format!("{:#}", connect(&args(address)).unwrap_err());
        assert!(error.starts_with("no connection"), "{error}");
    }
}
