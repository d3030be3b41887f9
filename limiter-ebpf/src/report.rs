//! What happened to a packet, for user space: after the verdict, which nothing here can change.

use aya_ebpf::{
    bindings::BPF_RB_NO_WAKEUP, helpers::generated::bpf_get_smp_processor_id, programs::XdpContext,
};
use aya_log_ebpf::debug;
use limiter_common::{
    decide::{Clock, Decision},
    maps::{MAX_INTERFACES, counter_index, lost_index},
    packet::PacketBytes,
    report::DropSlot,
    verdict::{Action, Reason},
};

use crate::{
    clock::KernelClock,
    maps::{COUNTERS, DROPS, EVENTS, FLAWS},
    packet::XdpPacket,
    tables::INTERFACE,
};

/// Counts the packet and, where it was dropped, gathers it for an event.
#[inline]
pub(crate) fn record(
    ctx: &XdpContext,
    packet: &XdpPacket<'_>,
    clock: &KernelClock<'_>,
    decision: &Decision,
) {
    let bytes = packet.length();
    let interface = INTERFACE.load();
    count(counter_index(interface, decision.verdict), 1, bytes);
    if let Reason::Malformed = decision.verdict.reason
        && let Some(packets) = FLAWS.get_ptr_mut(decision.flaw as u32)
    {
        // SAFETY: the verifier checked the pointer, and no other CPU writes this CPU's counter.
        let packets = unsafe { &mut *packets };
        *packets = packets.wrapping_add(1);
        debug!(ctx, "malformed packet of {} bytes", bytes);
    }
    if let Action::Pass | Action::Tx = decision.verdict.action {
        return;
    }
    let Some(slot) = DROPS.get_ptr_mut(DropSlot::index(decision.source)) else {
        return;
    };
    // SAFETY: the verifier checked the pointer, and no other CPU writes this CPU's slot.
    let slot = unsafe { &mut *slot };
    let word = DropSlot::word(decision.verdict, interface);
    let Some(record) = slot.gather(decision.source, word, bytes, clock.coarse_ns()) else {
        return;
    };
    // The agent empties the buffer on its own schedule: a flood must not wake it per packet.
    // SAFETY: the helper has no preconditions.
    let record = record.on_cpu(unsafe { bpf_get_smp_processor_id() });
    if EVENTS.output::<DropSlot>(&record, u64::from(BPF_RB_NO_WAKEUP)).is_err() {
        // No larger than the number of counters; the mask only tells the verifier so.
        let interface = record.interface() & (MAX_INTERFACES - 1);
        let lost = lost_index(interface, (record.verdict.wrapping_sub(1) & 0xff) as u32);
        count(lost, record.packets, record.bytes);
    }
}

#[inline]
fn count(index: u32, packets: u64, bytes: u64) {
    if let Some(counter) = COUNTERS.get_ptr_mut(index) {
        // SAFETY: the verifier checked the pointer, and no other CPU writes this CPU's counter.
        let counter = unsafe { &mut *counter };
        counter.packets = counter.packets.wrapping_add(packets);
        counter.bytes = counter.bytes.wrapping_add(bytes);
    }
}
