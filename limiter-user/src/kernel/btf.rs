//! Where the fields of kernel structures lie, out of the kernel's own description (BTF): aya
//! relocates no field accesses of its programs. Bytes in, byte offsets out; whatever does not fit
//! the format is no field.

/// `BTF_MAGIC`, `struct btf_header` and kinds: `uapi/linux/btf.h`.
const MAGIC: u16 = 0xeb9f;

const INT: u32 = 1;
const ARRAY: u32 = 3;
const STRUCT: u32 = 4;
const UNION: u32 = 5;
const ENUM: u32 = 6;
const FUNC_PROTO: u32 = 13;
const VAR: u32 = 14;
const DATASEC: u32 = 15;
const DECL_TAG: u32 = 17;
const ENUM64: u32 = 19;

/// Structures inside structures without a name are looked into so deep.
const DEPTH: u32 = 8;

/// The types of a kernel.
#[derive(Debug)]
pub(super) struct Btf<'a> {
    strings: &'a [u8],
    /// Each type from its `struct btf_type` on, by id less one.
    types: Vec<&'a [u8]>,
}

impl<'a> Btf<'a> {
    /// Reads the description of a whole kernel (not of a module).
    pub(super) fn parse(bytes: &'a [u8]) -> Option<Self> {
        let half = bytes.first_chunk::<2>()?;
        if u16::from_ne_bytes(*half) != MAGIC {
            return None;
        }
        let header = size(word(bytes, 4)?);
        let section = |offset: usize, length: usize| {
            let from = header.checked_add(size(word(bytes, offset)?))?;
            bytes.get(from..from.checked_add(size(word(bytes, length)?))?)
        };
        let mut rest = section(8, 12)?;
        let strings = section(16, 20)?;
        let mut types = Vec::new();
        while !rest.is_empty() {
            types.push(rest);
            rest = rest.get(length(rest)?..)?;
        }
        Some(Self { strings, types })
    }

    /// The offset in bytes of a field, also one of a structure or union without a name inside.
    /// `None` where there is no such structure or field, or the field is not whole bytes.
    pub(super) fn offset(&self, structure: &str, field: &str) -> Option<u32> {
        self.types
            .iter()
            .filter(|found| is_compound(found))
            .filter(|found| self.name(found, 0) == Some(structure.as_bytes()))
            .find_map(|found| self.offset_in(found, field, DEPTH))
    }

    fn offset_in(&self, compound: &[u8], field: &str, depth: u32) -> Option<u32> {
        let info = word(compound, 4)?;
        let members = compound.get(12..)?.chunks_exact(12).take(size(info & 0xffff));
        for member in members {
            let mut bits = word(member, 8)?;
            if info >> 31 == 1 {
                // Of a structure with bit fields the upper byte is the size of the field in bits.
                if bits >> 24 != 0 {
                    continue;
                }
                bits &= 0xff_ffff;
            }
            let here = bits / 8;
            match self.name(member, 0)? {
                b"" if depth > 0 => {
                    let inner = self.types.get(size(word(member, 4)?).checked_sub(1)?)?;
                    if is_compound(inner)
                        && let Some(there) = self.offset_in(inner, field, depth - 1)
                    {
                        return here.checked_add(there);
                    }
                }
                name if name == field.as_bytes() => {
                    return (bits % 8 == 0).then_some(here);
                }
                _ => {}
            }
        }
        None
    }

    fn name(&self, entry: &[u8], at: usize) -> Option<&'a [u8]> {
        let text = self.strings.get(size(word(entry, at)?)..)?;
        text.split(|byte| *byte == 0).next()
    }
}

fn is_compound(entry: &[u8]) -> bool {
    word(entry, 4).is_some_and(|info| matches!(kind(info), STRUCT | UNION))
}

const fn kind(info: u32) -> u32 {
    info >> 24 & 0x1f
}

/// Bytes of a type with all that belongs to it.
fn length(entry: &[u8]) -> Option<usize> {
    let info = word(entry, 4)?;
    let count = size(info & 0xffff);
    Some(
        12 + match kind(info) {
            INT | VAR | DECL_TAG => 4,
            ARRAY => 12,
            STRUCT | UNION | DATASEC | ENUM64 => 12 * count,
            ENUM | FUNC_PROTO => 8 * count,
            _ => 0,
        },
    )
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(*bytes.get(at..)?.first_chunk()?))
}

/// 32 bits fit.
const fn size(word: u32) -> usize {
    word as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `struct outer { int first; union { struct { u16 port; }; u32 both; }; u32 flag:1; }`
    fn sample() -> Vec<u8> {
        let strings = b"\0outer\0first\0port\0both\0flag\0int\0";
        let at = |name: &str| {
            let found = strings.windows(name.len()).position(|window| window == name.as_bytes());
            u32::try_from(found.unwrap()).unwrap()
        };
        let compound = |kind: u32, count: u32| kind << 24 | count;
        let types = [
            // 1: int
            vec![at("int"), INT << 24, 4, 32],
            // 2: struct { port }
            vec![0, compound(STRUCT, 1), 4, at("port"), 1, 16],
            // 3: union { struct 2; both }
            vec![0, compound(UNION, 2), 4, 0, 2, 0, at("both"), 1, 0],
            // 4: a typedef, for the stride
            vec![at("int"), 8 << 24, 1],
            // 5: struct outer, with bit fields
            vec![
                at("outer"),
                1 << 31 | compound(STRUCT, 3),
                12,
                at("first"),
                1,
                0,
                0,
                3,
                32,
                at("flag"),
                1,
                1 << 24 | 64,
            ],
        ]
        .concat();
        let mut bytes = Vec::new();
        bytes.extend(MAGIC.to_ne_bytes());
        bytes.extend([1, 0]);
        let types_length = u32::try_from(types.len() * 4).unwrap();
        let strings_length = u32::try_from(strings.len()).unwrap();
        for word in [24, 0, types_length, types_length, strings_length] {
            bytes.extend(word.to_ne_bytes());
        }
        bytes.extend(types.iter().flat_map(|word| word.to_ne_bytes()));
        bytes.extend(strings);
        bytes
    }

    #[test]
    fn fields_are_found_in_structures_without_a_name() {
        let bytes = sample();
        let btf = Btf::parse(&bytes).unwrap();
        assert_eq!(btf.offset("outer", "first"), Some(0));
        assert_eq!(btf.offset("outer", "both"), Some(4));
        assert_eq!(btf.offset("outer", "port"), Some(6));
        assert_eq!(btf.offset("outer", "flag"), None, "a bit");
        assert_eq!(btf.offset("outer", "other"), None);
        assert_eq!(btf.offset("int", "first"), None);
    }

    #[test]
    fn what_is_cut_short_or_something_else_is_not_read() {
        let bytes = sample();
        for length in 0..bytes.len() {
            let cut = Btf::parse(&bytes[..length]);
            assert!(cut.is_none(), "{length}");
        }
        let mut other = bytes.clone();
        other[0] = 0;
        assert!(Btf::parse(&other).is_none());
        // Any word may be anything.
        for at in (0..bytes.len()).step_by(4) {
            for value in [0, 5, u32::MAX] {
                let mut broken = bytes.clone();
                if let Some(word) = broken.get_mut(at..at + 4) {
                    word.copy_from_slice(&value.to_ne_bytes());
                }
                if let Some(btf) = Btf::parse(&broken) {
                    btf.offset("outer", "port");
                }
            }
        }
    }

    #[test]
    fn this_kernel_says_where_its_sockets_keep_what() {
        let Ok(bytes) = std::fs::read("/sys/kernel/btf/vmlinux") else { return };
        let btf = Btf::parse(&bytes).unwrap();
        assert_eq!(btf.offset("sock_common", "skc_daddr"), Some(0));
        assert_eq!(btf.offset("sock_common", "skc_num"), Some(14));
        assert!(btf.offset("net", "net_cookie").is_some());
    }
}
