//! Turns how packets get from a network card to the shards' CPUs into checks.
//!
//! In:    `/sys/class/net`, `/proc/irq`.
//! Out:   a line a card: its queues, and the CPUs that serve them.
//! Never: judges a card through which no client comes: a server on loopback has none.

use std::collections::BTreeSet;

use super::check::Check;
use super::patient::Patient;

/// The queues of each card.
pub(super) fn queues(patient: &Patient) -> Vec<Check> {
    let cards: Vec<_> = patient.root.names("sys/class/net");
    let cards = cards.into_iter().filter(|name| is_card(patient, name));
    let checks: Vec<_> = cards.map(|name| card(patient, &name)).collect();
    match checks.is_empty() {
        true => vec![Check::of("nic").skip("this network namespace has no card of its own")],
        false => checks,
    }
}

/// Whether it is hardware, or what a virtual machine takes for it, and in this namespace: the files
/// of `/sys` may be those of another.
fn is_card(patient: &Patient, name: &str) -> bool {
    let here = patient.root.text("proc/self/net/dev").unwrap_or_default();
    if !here.lines().any(|line| line.trim_start().split(':').next() == Some(name)) {
        return false;
    }
    !patient.root.names(&format!("sys/class/net/{name}/device")).is_empty()
}

fn card(patient: &Patient, name: &str) -> Check {
    let folder = format!("sys/class/net/{name}");
    let queues: Vec<_> = patient.root.names(&format!("{folder}/queues"));
    let inputs: Vec<_> = queues.iter().filter(|queue| queue.starts_with("rx-")).collect();
    let served = cpus_of(patient, name);
    let said = match served.len() {
        0 => format!("{} queues", inputs.len()),
        count => format!("{} queues, interrupts on {count} CPUs", inputs.len()),
    };
    let check = Check::of(format!("nic.{name}")).measured(said);
    if patient.listens_to_itself() {
        return check.skip("the server listens on loopback alone: no client comes through it");
    }
    let cpus = patient.facts.cpus.len();
    if cpus < 2 || inputs.is_empty() {
        return check.pass("one CPU takes what one card brings");
    }
    let spread = inputs.iter().any(|queue| {
        let mask = patient.root.text(&format!("{folder}/queues/{queue}/rps_cpus"));
        mask.is_some_and(|mask| mask.chars().any(|c| c.is_ascii_hexdigit() && c != '0'))
    });
    if inputs.len() < 2 && !spread {
        let all = patient.facts.cpus.iter().fold(0_u128, |mask, cpu| match cpu {
            0..128 => mask | 1 << cpu,
            _ => mask,
        });
        let message = format!(
            "every packet enters at one CPU, and the other {} wait for it: this is latency, not a \
             number of connections",
            cpus - 1
        );
        return check.warn(message, format!("echo {all:x} > /{folder}/queues/rx-0/rps_cpus"));
    }
    if inputs.len() > 1 && served.len() == 1 {
        let message = "all queues interrupt the same CPU: the card's queues win nothing";
        let fix = "systemctl start irqbalance   # or each by hand: echo CPU > \
                   /proc/irq/NUMBER/smp_affinity_list";
        return check.warn(message, fix);
    }
    check.pass("packets enter at several CPUs")
}

/// CPUs that a card's interrupts go to; none where that cannot be known.
fn cpus_of(patient: &Patient, name: &str) -> BTreeSet<String> {
    let device = format!("sys/class/net/{name}/device");
    // A virtio card's interrupts are those of the PCI device that carries it.
    let folders = [format!("{device}/msi_irqs"), format!("{device}/../msi_irqs")];
    let numbers = folders.iter().flat_map(|folder| patient.root.names(folder));
    let list = |number: String| {
        let list = patient.root.text(&format!("proc/irq/{number}/effective_affinity_list"))?;
        Some(list.trim().to_owned())
    };
    numbers.filter_map(list).filter(|list| !list.is_empty()).collect()
}
