//! Draws an operation by weight.

use agent_sdk::Failure;
use serde::Deserialize;

/// How often each operation is drawn, relative to the others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Weights {
    #[serde(default)]
    insert: u32,
    #[serde(default)]
    select: u32,
    #[serde(default)]
    update: u32,
    #[serde(default)]
    delete: u32,
}

/// The mix of the reference load, in percent.
impl Default for Weights {
    fn default() -> Self {
        Self { insert: 25, select: 50, update: 20, delete: 5 }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Operation {
    Insert,
    Select,
    Update,
    Delete,
}

impl Weights {
    /// Draws by the task's id rather than by chance, so that a retry does what the first attempt tried.
    pub(crate) fn draw(self, task_id: &str) -> Result<Operation, Failure> {
        let choices = [
            (Operation::Insert, self.insert),
            (Operation::Select, self.select),
            (Operation::Update, self.update),
            (Operation::Delete, self.delete),
        ];
        let total: u64 = choices.iter().map(|&(_, weight)| u64::from(weight)).sum();
        let none = || Failure::reject("`weights` must name a weight above 0");
        let mut point = hash(task_id).checked_rem(total).ok_or_else(none)?;
        for (operation, weight) in choices {
            let weight = u64::from(weight);
            if point < weight {
                return Ok(operation);
            }
            point -= weight;
        }
        Err(none())
    }
}

/// FNV-1a, then the finalizer of MurmurHash3: ids that differ in one character land far apart.
fn hash(text: &str) -> u64 {
    let fnv = text
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3));
    let mixed = (fnv ^ (fnv >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    let mixed = (mixed ^ (mixed >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    mixed ^ (mixed >> 33)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_operation_comes_as_often_as_its_weight_says() {
        let mut counts = [0_i32; 4];
        for task in 0..10_000 {
            let index = match Weights::default().draw(&format!("task-{task}")).unwrap() {
                Operation::Insert => 0,
                Operation::Select => 1,
                Operation::Update => 2,
                Operation::Delete => 3,
            };
            counts[index] += 1;
        }
        // 250 of 10,000 draws: five standard deviations of the most frequent operation.
        for (count, expected) in counts.into_iter().zip([2500, 5000, 2000, 500]) {
            assert!((count - expected).abs() < 250, "{counts:?}");
        }
    }

    #[test]
    fn the_same_task_draws_the_same() {
        let draw = |id| Weights::default().draw(id).unwrap();
        assert_eq!(draw("0197f3a0-0000-7000-8000-000000000001"), draw("0197f3a0-0000-7000-8000-000000000001"));
    }

    #[test]
    fn weights_of_nothing_are_rejected_and_a_single_one_always_drawn() {
        let none = Weights { insert: 0, select: 0, update: 0, delete: 0 };
        assert!(matches!(none.draw("x"), Err(Failure::Reject { .. })));
        assert_eq!(Weights { delete: u32::MAX, ..none }.draw("x"), Ok(Operation::Delete));
    }
}
