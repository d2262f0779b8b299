//! How many deliveries a consumer may have unsettled: as many as are asked for, and no more than memory holds of them.

/// Where a consumer begins, before it has seen a body: few enough that the largest do no harm. One that is to have less than
/// twice as many begins with all of them: a change would not be worth its round trips.
const INITIAL: u16 = 16;
/// How fast large bodies are forgotten: a fraction of the difference, per delivery.
const FORGET: u64 = 64;

/// The prefetch of one consumer, after the bodies that it sees.
#[derive(Debug)]
pub(super) struct Prefetch {
    max: u16,
    current: u16,
    /// About the largest of the last bodies, in bytes.
    body_bytes: u64,
}

impl Prefetch {
    pub(super) fn new(max: u16) -> Self {
        let current = if max < 2 * INITIAL { max } else { INITIAL };
        Self { max, current, body_bytes: 0 }
    }

    /// The one in force.
    pub(super) fn current(&self) -> u16 {
        self.current
    }

    /// About the largest of the last bodies, in bytes.
    pub(super) fn body_bytes(&self) -> u64 {
        self.body_bytes
    }

    /// A body came.
    pub(super) fn saw(&mut self, bytes: u64) {
        let less = self.body_bytes.saturating_sub(bytes);
        self.body_bytes = bytes.max(self.body_bytes.saturating_sub(less.div_ceil(FORGET)));
    }

    /// What fits into so many bytes.
    fn fitting(&self, bytes: u64) -> u16 {
        let count = bytes.checked_div(self.body_bytes).unwrap_or(u64::MAX);
        u16::try_from(count).unwrap_or(u16::MAX).clamp(1, self.max.max(1))
    }

    /// The prefetch to change to now, where that is worth it, with these bytes to fill and these deliveries in hand, which
    /// a new consumer's prefetch does not count.
    pub(super) fn change(&mut self, bytes: u64, in_hand: u64) -> Option<u16> {
        let fitting = self.fitting(bytes);
        let raised = fitting.saturating_sub(u16::try_from(in_hand).unwrap_or(u16::MAX)).max(1);
        let next = if fitting < self.current.div_ceil(2) {
            fitting
        } else if raised / 2 >= self.current {
            raised
        } else {
            return None;
        };
        self.current = next;
        Some(next)
    }

    /// The prefetch to begin anew with, with these bytes to fill.
    pub(super) fn resume(&mut self, bytes: u64) -> u16 {
        self.current = self.fitting(bytes);
        self.current
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROOM: u64 = 50_000_000;

    #[test]
    fn small_bodies_come_as_many_at_a_time_as_are_asked_for() {
        let mut prefetch = Prefetch::new(1_262);
        assert_eq!(prefetch.current(), INITIAL);
        prefetch.saw(256);
        assert_eq!(prefetch.change(ROOM, 1), Some(1_261));
        prefetch.saw(300);
        assert_eq!(prefetch.change(ROOM, 1_000), None);
        assert_eq!((Prefetch::new(10).current(), Prefetch::new(20).current()), (10, 20));
    }

    #[test]
    fn large_bodies_lower_it_and_are_forgotten() {
        let mut prefetch = Prefetch::new(1_000);
        prefetch.saw(100);
        assert_eq!(prefetch.change(ROOM, 0), Some(1_000));
        prefetch.saw(8 << 20);
        assert_eq!(prefetch.change(ROOM, 3), Some(5));
        for _ in 0..10_000 {
            prefetch.saw(100);
        }
        assert_eq!(prefetch.change(ROOM, 3), Some(997));
        prefetch.saw(1 << 30);
        assert_eq!(prefetch.resume(ROOM), 1, "one at a time comes through, however large");
    }
}
