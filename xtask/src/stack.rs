//! How much stack an eBPF program can use, read from its instructions: per function the deepest
//! address below the frame pointer that it forms, then the deepest chain of calls. The kernel
//! rounds each frame up and allows 512 bytes for the whole chain. Never loads anything.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result, bail};
use aya_obj::Object;

/// One decoded instruction: the fields that matter here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Instruction {
    pub(crate) code: u8,
    pub(crate) destination: u8,
    pub(crate) source: u8,
    pub(crate) offset: i16,
    pub(crate) immediate: i32,
}

const FRAME_POINTER: u8 = 10;
const CLASS_MASK: u8 = 0x07;
const CALL: u8 = 0x85;
const MOVE_64: u8 = 0xbf;
const ADD_64_IMMEDIATE: u8 = 0x07;
const LOAD_64_IMMEDIATE: u8 = 0x18;
const PSEUDO_CALL: u8 = 1;
const PSEUDO_FUNCTION: u8 = 4;
/// The kernel's rounding of a frame where programs are compiled to machine code
/// (`round_up_stack_depth` in kernel/bpf/verifier.c, since 6.8; 32 before).
const FRAME_ALIGNMENT: u32 = 16;

/// Bytes of stack of each program in `object`, by program name.
pub(crate) fn depths(object: &[u8]) -> Result<BTreeMap<String, u32>> {
    let mut object = Object::parse(object).context("not an eBPF object")?;
    let sections = object.functions.keys().map(|(section, _)| *section).collect();
    object.relocate_calls(&sections).context("calls between functions cannot be resolved")?;
    let mut depths = BTreeMap::new();
    for (name, program) in &object.programs {
        let function = object
            .functions
            .get(&program.function_key())
            .with_context(|| format!("program {name} has no code"))?;
        let instructions: Vec<Instruction> = function
            .instructions
            .iter()
            .map(|instruction| Instruction {
                code: instruction.code,
                destination: instruction.dst_reg(),
                source: instruction.src_reg(),
                offset: instruction.off,
                immediate: instruction.imm,
            })
            .collect();
        let depth = depth(&instructions).with_context(|| format!("program {name}"))?;
        depths.insert(name.clone(), depth);
    }
    Ok(depths)
}

/// Stack of linked code: the program first, the functions it calls after it.
fn depth(instructions: &[Instruction]) -> Result<u32> {
    let mut starts = BTreeSet::from([0]);
    for (at, instruction) in instructions.iter().enumerate() {
        starts.extend(callee(at, *instruction));
    }
    let starts: Vec<usize> = starts.into_iter().collect();
    let mut functions = BTreeMap::new();
    for (index, &start) in starts.iter().enumerate() {
        let end = starts.get(index + 1).copied().unwrap_or(instructions.len());
        let Some(body) = instructions.get(start..end) else { bail!("a call leaves the program") };
        let callees: Vec<usize> = body
            .iter()
            .enumerate()
            .filter_map(|(at, instruction)| callee(start + at, *instruction))
            .collect();
        functions.insert(start, (frame(body), callees));
    }
    chain(&functions, 0, &mut Vec::new())
}

/// The frame of the function at `start` and of the deepest chain below it.
fn chain(
    functions: &BTreeMap<usize, (u32, Vec<usize>)>,
    start: usize,
    path: &mut Vec<usize>,
) -> Result<u32> {
    if path.contains(&start) {
        bail!("recursion: stack has no bound");
    }
    let Some((frame, callees)) = functions.get(&start) else { bail!("a call leaves the program") };
    path.push(start);
    let mut below = 0;
    for &callee in callees {
        below = below.max(chain(functions, callee, path)?);
    }
    path.pop();
    Ok(frame.next_multiple_of(FRAME_ALIGNMENT) + below)
}

/// Where a call, or a reference to a callback, leads.
fn callee(at: usize, instruction: Instruction) -> Option<usize> {
    let is_call = instruction.code == CALL && instruction.source == PSEUDO_CALL;
    let is_callback =
        instruction.code == LOAD_64_IMMEDIATE && instruction.source == PSEUDO_FUNCTION;
    if !is_call && !is_callback {
        return None;
    }
    (at + 1).checked_add_signed(isize::try_from(instruction.immediate).ok()?)
}

/// The deepest byte below the frame pointer that one function reads, writes or takes the address
/// of. Follows copies of the frame pointer along the text, which is how LLVM forms addresses.
fn frame(body: &[Instruction]) -> u32 {
    // Per register the lowest distance from the frame pointer it may hold.
    let mut distances: [Option<i32>; 11] = [None; 11];
    distances[usize::from(FRAME_POINTER)] = Some(0);
    let mut lowest = 0;
    for instruction in body {
        let class = instruction.code & CLASS_MASK;
        let of = |register: u8| distances.get(usize::from(register)).copied().flatten();
        // Loads (LDX) address through the source, stores (ST, STX) through the destination.
        let base = match class {
            0x01 => of(instruction.source),
            0x02 | 0x03 => of(instruction.destination),
            _ => None,
        };
        if let Some(base) = base {
            lowest = lowest.min(base + i32::from(instruction.offset));
        }
        let written = match instruction.code {
            MOVE_64 => Some(of(instruction.source)),
            ADD_64_IMMEDIATE => Some(
                of(instruction.destination)
                    .and_then(|base| base.checked_add(instruction.immediate)),
            ),
            _ if matches!(class, 0x00 | 0x01 | 0x04 | 0x07) => Some(None),
            _ => None,
        };
        if let Some(value) = written
            && instruction.destination != FRAME_POINTER
            && let Some(slot) = distances.get_mut(usize::from(instruction.destination))
        {
            *slot = value;
            lowest = lowest.min(value.unwrap_or(0));
        }
    }
    lowest.unsigned_abs()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn instruction(
        code: u8,
        destination: u8,
        source: u8,
        offset: i16,
        immediate: i32,
    ) -> Instruction {
        Instruction { code, destination, source, offset, immediate }
    }

    const EXIT: Instruction =
        Instruction { code: 0x95, destination: 0, source: 0, offset: 0, immediate: 0 };

    #[test]
    fn direct_stores_and_addresses_count() {
        // *(u64 *)(r10 - 24) = r1; r2 = r10; r2 += -40; exit
        let body = [
            instruction(0x7b, 10, 1, -24, 0),
            instruction(MOVE_64, 2, 10, 0, 0),
            instruction(ADD_64_IMMEDIATE, 2, 0, 0, -40),
            EXIT,
        ];
        assert_eq!(frame(&body[..1]), 24);
        assert_eq!(frame(&body), 40);
        assert_eq!(depth(&body).unwrap(), 48);
        assert_eq!(frame(&[EXIT]), 0);
    }

    #[test]
    fn an_address_is_forgotten_when_its_register_is_overwritten() {
        // r2 = r10; r2 = 7; r2 += -400
        let body = [
            instruction(MOVE_64, 2, 10, 0, 0),
            instruction(0xb7, 2, 0, 0, 7),
            instruction(ADD_64_IMMEDIATE, 2, 0, 0, -400),
        ];
        assert_eq!(frame(&body), 0);
    }

    #[test]
    fn the_deepest_chain_of_calls_counts() {
        // 0: call 3; 1: call 5; 2: exit; 3: store -8; 4: exit; 5: store -100; 6: exit
        let code = [
            instruction(CALL, 0, PSEUDO_CALL, 0, 2),
            instruction(CALL, 0, PSEUDO_CALL, 0, 3),
            EXIT,
            instruction(0x7b, 10, 1, -8, 0),
            EXIT,
            instruction(0x7b, 10, 1, -100, 0),
            EXIT,
        ];
        assert_eq!(depth(&code).unwrap(), 112);
    }

    #[test]
    fn recursion_and_calls_out_of_the_program_are_errors() {
        let recursive = [instruction(CALL, 0, PSEUDO_CALL, 0, -1), EXIT];
        assert!(depth(&recursive).unwrap_err().to_string().contains("recursion"));
        let outside = [instruction(CALL, 0, PSEUDO_CALL, 0, 50), EXIT];
        assert!(depth(&outside).is_err());
    }
}
