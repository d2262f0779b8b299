//! A hundred agents vote on fifty proposals at the same time, every vote twice: no count may be off by one.

use futures::StreamExt;
use futures::stream;
use serde_json::json;

use super::common::HostBuilder;

const VOTERS: usize = 100;
const PROPOSALS: usize = 50;
/// Percent that must agree. Sixty of a hundred vote yes, so that the very last yes decides, whichever it is.
const QUORUM: usize = 60;
/// Submissions under way at once.
const AT_ONCE: usize = 200;

/// The vote of a voter: fixed, so that the right counts are known, and different for each proposal.
fn choice(voter: usize, proposal: usize) -> &'static str {
    if (voter * 7 + proposal * 13) % 10 < 6 { "yes" } else { "no" }
}

#[tokio::test]
async fn every_count_is_exact_when_all_vote_twice() {
    let mut host = HostBuilder::real().with_samples().start().await;
    let run = uuid::Uuid::new_v4();
    let proposal_id = |proposal: usize| format!("{run}-{proposal}");
    for proposal in 0..PROPOSALS {
        let body =
            json!({ "op": "create-proposal", "proposal": proposal_id(proposal), "voters": VOTERS, "quorum": QUORUM });
        host.run_json("voter", &body).await;
    }

    // Both rounds at the same time: a duplicate may come before, during or after the vote that it repeats.
    let votes =
        (0..2).flat_map(|_| (0..PROPOSALS).flat_map(|proposal| (0..VOTERS).map(move |voter| (voter, proposal))));
    let answers: Vec<(String, bool)> = stream::iter(votes)
        .map(|(voter, proposal)| {
            let body = json!({
                "op": "vote",
                "proposal": proposal_id(proposal),
                "agent": format!("agent-{voter}"),
                "choice": choice(voter, proposal),
            });
            let host = &host;
            async move {
                let answer = host.run_json("voter", &body).await;
                (answer["result"].as_str().unwrap().to_owned(), answer["decides"].as_bool().unwrap())
            }
        })
        .buffer_unordered(AT_ONCE)
        .collect()
        .await;
    let results = |wanted: &str| answers.iter().filter(|(result, _)| result == wanted).count();
    let votes = VOTERS * PROPOSALS;
    assert_eq!((results("counted"), results("duplicate")), (votes, votes), "each vote counts once");
    let deciding = answers.iter().filter(|(_, decides)| *decides).count();
    assert_eq!(deciding, PROPOSALS, "each proposal is decided once");

    for proposal in 0..PROPOSALS {
        let yes = (0..VOTERS).filter(|voter| choice(*voter, proposal) == "yes").count();
        let counted = host.run_json("voter", &json!({ "op": "count", "proposal": proposal_id(proposal) })).await;
        assert_eq!(counted["yes"], yes, "proposal {proposal}: {counted}");
        assert_eq!(counted["no"], VOTERS - yes, "proposal {proposal}: {counted}");
        assert_eq!(counted["total"], VOTERS, "proposal {proposal}: {counted}");
        let consensus = host.run_json("voter", &json!({ "op": "consensus", "proposal": proposal_id(proposal) })).await;
        assert_eq!(consensus["status"], "accepted", "proposal {proposal}: {consensus}");
        assert_eq!(consensus["yes"], yes, "the tally agrees with the votes: {consensus}");
    }
    assert!(host.terminate().await.success(), "{}", host.log());
}
