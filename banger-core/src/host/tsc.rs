//! The processor: how fast its time stamp counter runs, and whether KVM can be used.

use std::time::{Duration, Instant};

use super::CpuFacts;
use crate::names::Mebibytes;

/// Counts for 30 ms. Measured against `CLOCK_MONOTONIC`, good to some 25 ppm; a guest kernel that is
/// told a wrong rate runs with a wrong clock.
#[cfg(target_arch = "x86_64")]
pub(super) fn khz() -> Option<u32> {
    fn counter() -> u64 {
        // SAFETY: reading the counter has no precondition on x86-64 and touches no memory.
        #[allow(unsafe_code, unused_unsafe)]
        unsafe {
            core::arch::x86_64::_rdtsc()
        }
    }
    let (started, first) = (Instant::now(), counter());
    std::thread::sleep(Duration::from_millis(30));
    let (elapsed, last) = (started.elapsed(), counter());
    let ticks = u128::from(last.checked_sub(first)?);
    u32::try_from(ticks * 1_000_000 / elapsed.as_nanos().max(1)).ok()
}

/// There is no such counter here.
#[cfg(not(target_arch = "x86_64"))]
pub(super) fn khz() -> Option<u32> {
    None
}

pub(super) fn cpu_facts() -> CpuFacts {
    let cpuinfo = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    CpuFacts {
        processors: std::thread::available_parallelism()
            .map_or(1, |n| u32::try_from(n.get()).unwrap_or(u32::MAX)),
        memory: memory(&std::fs::read_to_string("/proc/meminfo").unwrap_or_default()),
        kvm: kvm_usable(&cpuinfo, &|| {
            std::fs::OpenOptions::new()
                .read(true)
                .write(true)
                .open("/dev/kvm")
                .map(drop)
        }),
    }
}

fn memory(meminfo: &str) -> Mebibytes {
    let line = meminfo
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:"));
    let kib = line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<u64>().ok());
    Mebibytes(kib.unwrap_or(0) / 1024)
}

/// `/dev/kvm` that opens is not KVM that works: without vmx or svm a stock guest kernel hangs on it.
fn kvm_usable(cpuinfo: &str, open: &dyn Fn() -> std::io::Result<()>) -> Result<(), String> {
    let has_extension = cpuinfo
        .lines()
        .filter_map(|line| line.strip_prefix("flags"))
        .any(|flags| {
            flags
                .split_ascii_whitespace()
                .any(|flag| flag == "vmx" || flag == "svm")
        });
    match open() {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            Err("there is no /dev/kvm".to_owned())
        }
        Err(error) => Err(format!(
            "/dev/kvm cannot be opened ({error}): add yourself to the group kvm"
        )),
        Ok(()) if !has_extension => Err(
            "/dev/kvm opens, but the processor shows neither vmx nor svm: guests hang on it"
                .to_owned(),
        ),
        Ok(()) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kvm_device_without_vmx_or_svm_counts_as_absent() {
        let opens = || Ok(());
        assert!(kvm_usable("flags\t\t: fpu vme svm", &opens).is_ok());
        let refused = kvm_usable("flags\t\t: fpu svme vmxoff", &opens).unwrap_err();
        assert!(refused.contains("neither vmx nor svm"), "{refused}");
        let missing = kvm_usable("flags : vmx", &|| Err(std::io::ErrorKind::NotFound.into()));
        assert_eq!(missing.unwrap_err(), "there is no /dev/kvm");
    }

    #[cfg(target_arch = "x86_64")]
    #[test]
    fn two_measurements_of_the_counter_agree_within_a_thousandth() {
        // A busy machine may deschedule us inside one measurement; three tries are enough.
        let agrees = (0..3).any(|_| {
            let (a, b) = (f64::from(khz().unwrap()), f64::from(khz().unwrap()));
            (a / b - 1.0).abs() < 1e-3
        });
        assert!(agrees);
    }
}
