//! Bytes between the two processes, as either may receive them from one that went wrong.

use std::{fmt::Debug, io::ErrorKind};

use limiter_user::link::{
    FromProxy, MAX_FRAME_BYTES, ToProxy,
    codec::{Progress, encode, progress},
};
use serde::{Serialize, de::DeserializeOwned};

/// The bytes as a stream of frames, and as the body of one, each way: no panic, no frame longer
/// than is allowed, and what is understood says the same when it is sent on.
pub fn link(data: &[u8]) {
    let mut framed = u32::try_from(data.len()).unwrap_or(0).to_le_bytes().to_vec();
    framed.extend(data);
    for bytes in [data, &framed] {
        receive::<ToProxy>(bytes);
        receive::<FromProxy>(bytes);
    }
}

/// Reads frames as a receiver does: no byte more than is asked for.
fn receive<T: Debug + DeserializeOwned + PartialEq + Serialize>(mut bytes: &[u8]) {
    while let Some((message, read)) = first::<T>(bytes) {
        let sent = encode(&message).expect("what was received can be sent");
        let again = progress::<T>(&sent).expect("and is received again");
        assert_eq!(again, Progress::Message(message));
        bytes = &bytes[read..];
    }
}

fn first<T: DeserializeOwned>(bytes: &[u8]) -> Option<(T, usize)> {
    let mut read = 0;
    loop {
        match progress(&bytes[..read]) {
            Ok(Progress::Message(message)) => return Some((message, read)),
            Ok(Progress::Needs(wanted)) => {
                assert!(wanted > read && wanted <= 4 + MAX_FRAME_BYTES);
                if wanted > bytes.len() {
                    return None;
                }
                read = wanted;
            }
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::InvalidData);
                return None;
            }
        }
    }
}
