//! What all fuzz targets share: bounds on work and memory, and the parts that are dear to build.
//!
//! Work is counted in loads from memory (`work.c`), memory by the allocator. Both bounds are linear in
//! the input: `per_byte × length + floor`. A target that exceeds one panics, which is a finding.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};

use veilwatch::seal::engine::Engine;
use veilwatch::seal::{Keys, Sealer};

unsafe extern "C" {
    safe fn veilwatch_loads() -> u64;
}

struct Counting;

static NOW: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

// SAFETY: everything is handed on to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let now = NOW.fetch_add(layout.size(), Relaxed) + layout.size();
        PEAK.fetch_max(now, Relaxed);
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, p: *mut u8, layout: Layout) {
        NOW.fetch_sub(layout.size(), Relaxed);
        unsafe { System.dealloc(p, layout) }
    }
    unsafe fn realloc(&self, p: *mut u8, layout: Layout, new: usize) -> *mut u8 {
        NOW.fetch_sub(layout.size(), Relaxed);
        let now = NOW.fetch_add(new, Relaxed) + new;
        PEAK.fetch_max(now, Relaxed);
        unsafe { System.realloc(p, layout, new) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// What an input may cost.
#[derive(Debug, Clone, Copy)]
pub struct Bound {
    /// Loads a byte.
    pub loads: u64,
    /// Loads whatever the input.
    pub loads_floor: u64,
    /// Bytes of memory a byte.
    pub memory: usize,
    /// Bytes of memory whatever the input.
    pub memory_floor: usize,
}

impl Bound {
    /// Runs `f` over an input of `len` bytes and panics if it cost more.
    pub fn hold<T>(&self, len: usize, f: impl FnOnce() -> T) -> T {
        let before = NOW.load(Relaxed);
        PEAK.store(before, Relaxed);
        let start = veilwatch_loads();
        let out = f();
        let loads = veilwatch_loads() - start;
        let memory = PEAK.load(Relaxed).saturating_sub(before);
        if std::env::var_os("VEILWATCH_FUZZ_COST").is_some() {
            eprintln!("cost {len} {loads} {memory}");
        }
        let most = self.loads * len as u64 + self.loads_floor;
        assert!(loads <= most, "{len} bytes took {loads} loads, more than {most}");
        let most = self.memory * len + self.memory_floor;
        assert!(memory <= most, "{len} bytes took {memory} bytes of memory, more than {most}");
        out
    }
}

/// The shipped rules and weights.
pub fn engine() -> &'static Arc<Engine> {
    static ENGINE: OnceLock<Arc<Engine>> = OnceLock::new();
    ENGINE.get_or_init(|| Arc::new(Engine::built_in()))
}

/// A sealer with the published development key.
pub fn sealer() -> Arc<Sealer> {
    Arc::new(Sealer::new(Keys::development(), Arc::clone(engine())))
}
