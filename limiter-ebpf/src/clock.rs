//! The two clocks of the kernel: jiffies (2.5 ns to read, one tick late at most) and ktime (20 to
//! 28 ns).

use aya_ebpf::{
    Global,
    helpers::{bpf_jiffies64, bpf_ktime_get_ns},
    programs::XdpContext,
};
use limiter_common::{decide::Clock, settings::Settings};

/// For tests: both clocks say what the settings say. The verifier removes the branch otherwise.
#[unsafe(no_mangle)]
static FIXED_CLOCK: Global<u32> = Global::new(0);

/// Whether this is a test with a fixed clock.
#[inline]
pub(crate) fn is_fixed() -> bool {
    FIXED_CLOCK.load() != 0
}

/// The kernel's clocks, as one policy has them calibrated.
///
/// Jiffies are read at once: nearly every packet needs them, some of them twice.
pub(crate) struct KernelClock<'a> {
    settings: &'a Settings,
    coarse_ns: u64,
}

impl<'a> KernelClock<'a> {
    #[inline]
    pub(crate) fn new(settings: &'a Settings) -> Self {
        if is_fixed() {
            return Self { settings, coarse_ns: settings.fixed_now_ns };
        }
        // SAFETY: the helper has no preconditions.
        let jiffies = unsafe { bpf_jiffies64() };
        let coarse_ns =
            jiffies.wrapping_mul(settings.tick_ns).wrapping_add(settings.tick_offset_ns);
        Self { settings, coarse_ns }
    }
}

impl Clock for KernelClock<'_> {
    #[inline]
    fn coarse_ns(&self) -> u64 {
        self.coarse_ns
    }

    #[inline]
    fn precise_ns(&self) -> u64 {
        if is_fixed() {
            return self.settings.fixed_now_ns;
        }
        // SAFETY: the helper has no preconditions.
        unsafe { bpf_ktime_get_ns() }
    }
}

/// Writes both clocks into the first 16 bytes of the packet.
pub(crate) fn probe(ctx: &XdpContext) {
    let data = ctx.data();
    if data + 16 > ctx.data_end() {
        return;
    }
    // SAFETY: the helper has no preconditions.
    let jiffies = unsafe { bpf_jiffies64() };
    // SAFETY: the helper has no preconditions.
    let ktime_ns = unsafe { bpf_ktime_get_ns() };
    let words = data as *mut [u64; 2];
    // SAFETY: 16 bytes from `data` are inside the packet, as compared above.
    unsafe { words.write_unaligned([jiffies, ktime_ns]) };
}
