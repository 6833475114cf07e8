//! Turns `/proc/zoneinfo` into what the kernel keeps of its memory, and where some of it hides.
//!
//! In:    the text of the file.
//! Out:   `Zones`.
//! Never: takes a boost for a mark. After a shortage the kernel lifts the marks of a zone for a
//!        while (`watermark_boost_factor`; 150 MB were seen of 24 GB), to reclaim more at once.

use super::number_behind;

/// Of all zones together, in pages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Zones {
    /// What there is.
    pub(super) managed: u64,
    /// What the kernel gives to nobody: each zone's high mark, and what it holds for those who can
    /// use no other (`calculate_totalreserve_pages` of the kernel's `mm/page_alloc.c`).
    pub(super) reserve: u64,
    /// The marks at which it begins to reclaim.
    pub(super) low: u64,
    /// Free pages on the lists of single CPUs: they count as free nowhere else.
    pub(super) listed: u64,
}

/// One zone, as far as it was read.
#[derive(Default)]
struct Zone {
    managed: u64,
    boost: u64,
    low: u64,
    high: u64,
    protection: u64,
}

impl Zones {
    pub(super) fn read(text: &str) -> Self {
        let mut zones = Self::default();
        let mut zone = Zone::default();
        for line in text.lines().map(str::trim) {
            if line.starts_with("Node ") {
                zones.add(&std::mem::take(&mut zone));
            }
            for (name, field) in [
                ("managed", &mut zone.managed),
                ("boost", &mut zone.boost),
                ("low", &mut zone.low),
                ("high", &mut zone.high),
            ] {
                // CPUs' lists have a "high:", too.
                *field = number_behind(line, name).unwrap_or(*field);
            }
            if let Some(list) = line.strip_prefix("protection:") {
                let each = list.split(|c: char| !c.is_ascii_digit());
                zone.protection = each.filter_map(|word| word.parse().ok()).max().unwrap_or(0);
            }
            zones.listed += number_behind(line, "count:").unwrap_or(0);
        }
        zones.add(&zone);
        zones
    }

    fn add(&mut self, zone: &Zone) {
        self.managed += zone.managed;
        let high = zone.high.saturating_sub(zone.boost);
        self.reserve += (zone.protection + high).min(zone.managed);
        self.low += zone.low.saturating_sub(zone.boost);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of this project's own box, a moment after its memory was full.
    const ZONES: &str = "\
Node 0, zone    DMA32
  per-node stats
      nr_inactive_file 58492
  pages free     771219
        boost    0
        min      2116
        low      2888
        high     3660
        managed  772915
        protection: (0, 0, 21071, 21071, 21071)
  pagesets
    cpu: 0
              count:    1444
              high:     1470
              high_min: 386
    cpu: 1
              count:    26
              high:     386
Node 0, zone   Normal
  pages free     5189524
        boost    38335
        min      53104
        low      58498
        high     63892
        managed  5394266
        protection: (0, 0, 0, 0, 0)
  pagesets
    cpu: 0
              count:    8778
Node 0, zone  Movable
  pages free     0
        boost    0
        low      32
        high     32
        managed  0
        protection: (0, 0, 0, 0, 0)
";

    #[test]
    fn marks_are_read_without_their_boost_and_free_pages_are_found_on_the_lists() {
        let zones = Zones {
            managed: 772_915 + 5_394_266,
            reserve: 21_071 + 3_660 + 63_892 - 38_335,
            low: 2_888 + 58_498 - 38_335 + 32,
            listed: 1_444 + 26 + 8_778,
        };
        assert_eq!(Zones::read(ZONES), zones);
    }

    #[test]
    fn what_a_zone_gives_to_nobody_is_never_more_than_it_has() {
        let tiny = "Node 0, zone DMA\n high 16\n managed 30\n protection: (0, 3019)\n";
        assert_eq!(Zones::read(tiny).reserve, 30);
        assert_eq!(Zones::read(""), Zones::default());
    }
}
