//! TCP flag bits, as in byte 13 of the header (RFC 9293, 3.1).

/// No more data from the sender.
pub const FIN: u8 = 0x01;
/// Synchronise sequence numbers.
pub const SYN: u8 = 0x02;
/// Reset the connection.
pub const RST: u8 = 0x04;
/// The acknowledgement field is significant.
pub const ACK: u8 = 0x10;
