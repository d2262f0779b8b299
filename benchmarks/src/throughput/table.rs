//! What is printed: a line for each side of each round, and the medians.

use anyhow::Result;
use benchmarks::figures::{self, median};

use super::broker::Round;

/// What the host's line is called.
const HOST: &str = "agent-host";

/// The rounds so far.
#[derive(Default)]
pub(crate) struct Table {
    others: Vec<Other>,
    /// Of each whole round: the host's figures, and what it was compared with.
    rounds: Vec<(Round, Vec<Other>)>,
}

/// What the host is compared with.
struct Other {
    name: &'static str,
    figure: &'static str,
    round: Round,
}

impl Table {
    /// Another side's round, which comes before the host's; `figure` is what the relation to it is noted as.
    pub(crate) fn add(&mut self, name: &'static str, figure: &'static str, round: Round) {
        self.others.push(Other { name, figure, round });
    }

    /// The host's figures end the round: it is printed.
    pub(crate) fn end_round(&mut self, hosted: Round) {
        if self.rounds.is_empty() {
            println!("                                              agent-host's   processor time per task in µs");
            println!("round   worker              tasks per second   in relation   worker + broker + database");
        }
        let others = std::mem::take(&mut self.others);
        let number = (self.rounds.len() + 1).to_string();
        for Other { name, round, .. } in &others {
            print_line(&number, name, round, Some(hosted.rate / round.rate));
        }
        print_line(&number, HOST, &hosted, None);
        self.rounds.push((hosted, others));
    }

    /// Prints the median of each column; that of the relations is of the rounds' relations, and is a figure.
    pub(crate) fn print_medians(&self) -> Result<()> {
        let Some((_, sides)) = self.rounds.first() else { return Ok(()) };
        for (place, Other { name, figure, .. }) in sides.iter().enumerate() {
            let of_side = |(hosted, others): &(Round, Vec<Other>)| {
                others.get(place).map(|Other { round, .. }| (*round, hosted.rate / round.rate))
            };
            let (rounds, ratios): (Vec<_>, Vec<_>) = self.rounds.iter().filter_map(of_side).unzip();
            let ratio = median(ratios);
            print_line("median", name, &medians(&rounds), Some(ratio));
            figures::note(&format!("throughput.{figure}"), ratio)?;
        }
        let hosted: Vec<_> = self.rounds.iter().map(|(hosted, _)| *hosted).collect();
        print_line("median", HOST, &medians(&hosted), None);
        Ok(())
    }
}

fn print_line(round: &str, name: &str, figures: &Round, ratio: Option<f64>) {
    let [worker_us, broker_us, database_us] = figures.micros_each;
    let ratio = ratio.map_or_else(String::new, |ratio| format!("{ratio:.2}"));
    println!(
        "{round:>6}  {name:<18}  {:>14.0}/s   {ratio:>11}   {worker_us:>6.0} + {broker_us:.0} + {database_us:.0}",
        figures.rate
    );
}

fn medians(rounds: &[Round]) -> Round {
    let micros =
        |process: usize| median(rounds.iter().filter_map(|round| round.micros_each.get(process).copied()).collect());
    Round {
        rate: median(rounds.iter().map(|round| round.rate).collect()),
        micros_each: [micros(0), micros(1), micros(2)],
    }
}
