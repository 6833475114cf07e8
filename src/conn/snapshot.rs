//! A connection, written down: what another shard (or another process) needs to go on with it.
//!
//! In:    a connection's state, or bytes that `write` made.
//! Out:   bytes, or the state; `None` where the bytes are not a snapshot of this version.
//! Never: holds a descriptor; that travels beside it.
//!
//! The format is little-endian, lengths before contents, a version in front: it crosses
//! processes of one machine only.

use std::net::{IpAddr, Ipv6Addr};

use crate::conn::Origin;
use crate::http::{Protocol, Route, Upgrade};
use crate::id::{Mode, RoomKey};
use crate::io::Parcel;
use crate::time::Stamp;
use crate::ws::message::Assembler;

const VERSION: u8 = 3;

/// What travels.
#[derive(Debug, Default)]
pub struct Snapshot {
    /// Where it wants to be, and as whom.
    pub upgrade: Option<Upgrade>,
    /// The upgrade was answered already.
    pub answered: bool,
    /// It stays where it arrives.
    pub placed: bool,
    /// Whose it is, where that is known.
    pub origin: Option<Origin>,
    /// When it was accepted, where it is not answered yet.
    pub accepted: Option<Stamp>,
    /// Input that was received and not yet decoded.
    pub leftover: Vec<u8>,
    /// A message that is half received.
    pub assembler: Assembler,
    /// Bytes that it still has to be sent, frames and all.
    pub unsent: Vec<u8>,
}

impl Snapshot {
    /// Writes it down.
    #[must_use]
    pub fn write(&self) -> Box<Parcel> {
        let mut out = Vec::with_capacity(96 + self.leftover.len() + self.unsent.len());
        out.push(VERSION);
        let is_timed = u8::from(self.accepted.is_some());
        out.push(u8::from(self.answered) | (u8::from(self.placed) << 1) | (is_timed << 2));
        if let Some(Stamp(at)) = self.accepted {
            out.extend_from_slice(&at.to_le_bytes());
        }
        match self.origin {
            None => out.push(0),
            Some(Origin { address, is_counted }) => {
                out.push(1 + u8::from(is_counted));
                let address = match address {
                    IpAddr::V4(v4) => v4.to_ipv6_mapped(),
                    IpAddr::V6(v6) => v6,
                };
                out.extend_from_slice(&address.octets());
            }
        }
        write_upgrade(&mut out, self.upgrade.as_ref());
        put_bytes(&mut out, &self.leftover);
        put_bytes(&mut out, &self.unsent);
        self.assembler.write(&mut out);
        Box::new(Parcel(out))
    }

    /// Reads what [`Snapshot::write`] wrote.
    #[must_use]
    pub fn read(parcel: &Parcel) -> Option<Self> {
        let mut input = parcel.0.as_slice();
        if take_byte(&mut input)? != VERSION {
            return None;
        }
        let bits = take_byte(&mut input)?;
        let accepted = match bits & 4 {
            0 => None,
            _ => Some(Stamp(take_u32(&mut input)?)),
        };
        let origin = match take_byte(&mut input)? {
            0 => None,
            known @ (1 | 2) => {
                let (octets, rest) = input.split_first_chunk::<16>()?;
                input = rest;
                let address = Ipv6Addr::from(*octets).to_canonical();
                Some(Origin { address, is_counted: known == 2 })
            }
            _ => return None,
        };
        Some(Self {
            answered: bits & 1 != 0,
            placed: bits & 2 != 0,
            accepted,
            origin,
            upgrade: read_upgrade(&mut input)?,
            leftover: take_bytes(&mut input)?.to_vec(),
            unsent: take_bytes(&mut input)?.to_vec(),
            assembler: Assembler::read(&mut input)?,
        })
    }
}

fn write_upgrade(out: &mut Vec<u8>, upgrade: Option<&Upgrade>) {
    let Some(upgrade) = upgrade else { return out.push(0) };
    match &upgrade.route {
        Route::Echo => out.push(1),
        Route::Room { room, user, hears_itself } => {
            out.push(match room.mode {
                Mode::Json => 2,
                Mode::Raw => 3,
            });
            out.push(u8::from(*hears_itself));
            put_bytes(out, room.name.as_bytes());
            put_bytes(out, user.as_bytes());
        }
    }
    out.push(match upgrade.protocol {
        None => 0,
        Some(Protocol::Json) => 1,
        Some(Protocol::Raw) => 2,
    });
    put_bytes(out, upgrade.key.as_bytes());
}

fn read_upgrade(input: &mut &[u8]) -> Option<Option<Upgrade>> {
    let route = match take_byte(input)? {
        0 => return Some(None),
        1 => Route::Echo,
        tag @ (2 | 3) => {
            let mode = if tag == 2 { Mode::Json } else { Mode::Raw };
            let hears_itself = take_byte(input)? != 0;
            let name = take_str(input)?.into();
            Route::Room {
                room: RoomKey { mode, name },
                user: take_str(input)?.into(),
                hears_itself,
            }
        }
        _ => return None,
    };
    let protocol = match take_byte(input)? {
        0 => None,
        1 => Some(Protocol::Json),
        2 => Some(Protocol::Raw),
        _ => return None,
    };
    Some(Some(Upgrade { route, protocol, key: take_str(input)?.into() }))
}

fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    let len = u32::try_from(bytes.len()).expect("limits keep a connection far below 4 GiB");
    out.extend_from_slice(&len.to_le_bytes());
    out.extend_from_slice(bytes);
}

fn take_byte(input: &mut &[u8]) -> Option<u8> {
    let (first, rest) = input.split_first()?;
    *input = rest;
    Some(*first)
}

fn take_u32(input: &mut &[u8]) -> Option<u32> {
    let (number, rest) = input.split_first_chunk::<4>()?;
    *input = rest;
    Some(u32::from_le_bytes(*number))
}

fn take_bytes<'a>(input: &mut &'a [u8]) -> Option<&'a [u8]> {
    let len = take_u32(input)?;
    let (bytes, rest) = input.split_at_checked(len as usize)?;
    *input = rest;
    Some(bytes)
}

fn take_str<'a>(input: &mut &'a [u8]) -> Option<&'a str> {
    std::str::from_utf8(take_bytes(input)?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn room(mode: Mode, protocol: Option<Protocol>) -> Snapshot {
        let key = RoomKey { mode, name: "lobby".into() };
        let route = Route::Room { room: key, user: "ann".into(), hears_itself: false };
        Snapshot {
            upgrade: Some(Upgrade { route, key: "dGhlIHNhbXBsZSBub25jZQ==".into(), protocol }),
            answered: true,
            placed: true,
            accepted: (mode == Mode::Raw).then_some(Stamp(0xfedc_ba98)),
            origin: Some(Origin {
                address: IpAddr::from([127, 0, 0, 9]),
                is_counted: mode == Mode::Raw,
            }),
            leftover: vec![0x81, 0x80],
            unsent: vec![1, 2, 3],
            assembler: Assembler::default(),
        }
    }

    #[test]
    fn what_is_written_is_read_back() {
        for snapshot in [
            room(Mode::Json, None),
            room(Mode::Raw, Some(Protocol::Raw)),
            Snapshot { upgrade: None, ..Snapshot::default() },
        ] {
            let parcel = snapshot.write();
            let read = Snapshot::read(&parcel).unwrap();
            assert_eq!(read.upgrade, snapshot.upgrade);
            assert_eq!((read.answered, read.placed), (snapshot.answered, snapshot.placed));
            assert_eq!((read.origin, read.accepted), (snapshot.origin, snapshot.accepted));
            assert_eq!((read.leftover, read.unsent), (snapshot.leftover, snapshot.unsent));
        }
    }

    #[test]
    fn a_truncated_snapshot_is_refused() {
        let parcel = room(Mode::Raw, Some(Protocol::Raw)).write();
        for len in 0..parcel.0.len() {
            assert!(Snapshot::read(&Parcel(parcel.0[..len].to_vec())).is_none(), "{len}");
        }
    }
}
