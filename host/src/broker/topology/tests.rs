use super::*;
use proptest::prelude::*;
use std::time::Duration;

#[test]
fn the_plan_is_the_contracts() {
    let agents = [AgentName::parse("voter").unwrap()];
    let lines: Vec<String> = plan(&agents).iter().map(ToString::to_string).collect();
    let without_repetition: Vec<&str> = lines
        .iter()
        .map(String::as_str)
        .filter(|line| !line.contains("agents.delay.") || line.contains(".2750ms"))
        .filter(|line| !line.contains(".partition.") || line.contains(".partition.c"))
        .collect();
    assert_eq!(
        without_repetition,
        [
            "exchange agents type=direct durable=true",
            "exchange agents.expired type=fanout durable=true",
            "queue agents.expired durable=true x-delivery-limit=1000000 x-queue-type=quorum",
            "binding agents.expired -> agents.expired routing_key=\"\"",
            "queue agents.partitioned durable=true x-delivery-limit=1000000 x-queue-type=quorum",
            "exchange agents.delay.2750ms type=fanout durable=true",
            "queue agents.delay.2750ms durable=true x-dead-letter-exchange=agents x-dead-letter-strategy=at-least-once \
             x-delivery-limit=1000000 x-message-ttl=2750 x-overflow=reject-publish x-queue-type=quorum",
            "binding agents.delay.2750ms -> agents.delay.2750ms routing_key=\"\"",
            "queue agent.voter durable=true x-dead-letter-exchange=agents.expired x-dead-letter-strategy=at-least-once \
             x-delivery-limit=1000000 x-overflow=reject-publish x-queue-type=quorum",
            "queue agent.voter.dead durable=true x-delivery-limit=1000000 x-queue-type=quorum",
            "binding agents -> agent.voter routing_key=\"voter\"",
            "queue agent.voter.partition.c durable=true x-dead-letter-exchange=agents.expired \
             x-dead-letter-strategy=at-least-once x-delivery-limit=1000000 x-overflow=reject-publish \
             x-queue-type=quorum x-single-active-consumer=true",
            "binding agents -> agent.voter.partition.c routing_key=\"voter.partition.c\"",
        ]
    );
    let mut printed = Vec::new();
    print(&plan(&agents), &mut printed).unwrap();
    assert_eq!(String::from_utf8(printed).unwrap().lines().collect::<Vec<_>>(), lines);
}

/// What a client of another make computes: `printf %s KEY | sha256sum | cut -c1`.
#[test]
fn a_keys_partition_is_the_first_hex_digit_of_its_sha_256() {
    let agent = AgentName::parse("voter").unwrap();
    for (key, digit) in [("", 'e'), ("abc", 'b'), ("order-4711", '1'), ("\u{e4}", '3')] {
        let partition = Partition::of_key(key);
        assert_eq!(partition.queue(&agent), format!("agent.voter.partition.{digit}"), "{key:?}");
        assert_eq!(partition.routing_key(&agent), format!("voter.partition.{digit}"), "{key:?}");
    }
    assert_eq!(for_partitions(&agent).len(), 2 * 16);
}

#[test]
fn routing_keys_name_their_agent() {
    let agent = AgentName::parse("voter").unwrap();
    let own = Partition::all().map(|partition| partition.routing_key(&agent)).chain(["voter".to_owned()]);
    for routing_key in own {
        assert_eq!(agent_of(&routing_key).as_ref(), Some(&agent), "{routing_key}");
    }
    for foreign in
        ["", "Voter", "voter.", "voter.dead", "voter.partition.g", "voter.partition.10", "voter.partition.a.b"]
    {
        assert_eq!(agent_of(foreign), None, "{foreign}");
    }
}

#[test]
fn the_ladder_is_as_described() {
    let all: Vec<Bucket> = Bucket::all().collect();
    assert_eq!(all.len(), 161);
    assert_eq!(all.first().unwrap().delay_ms(), 250);
    assert_eq!(*all.last().unwrap(), Bucket::LONGEST);
}

proptest! {
    /// What is left of the 10 % or 250 ms is for the way.
    #[test]
    fn a_delay_is_never_early_and_its_ladder_leaves_the_way_half_of_a_step(
        delay_ms in 0..=Bucket::LONGEST.delay_ms(), ns in 0..1_000_000u32,
    ) {
        let delay = Duration::from_millis(delay_ms.saturating_sub(1)) + Duration::from_nanos(ns.into());
        let bucket = Bucket::for_delay(delay.saturating_sub(DELAY_REST_MAX));
        let rest = bucket.rest_of(delay);
        prop_assert!(rest <= DELAY_REST_MAX);
        let actual = Duration::from_millis(bucket.delay_ms()) + rest;
        prop_assert!(actual >= delay);
        let tolerance = (delay / 10).max(Duration::from_millis(250));
        // Shorter ones go to no bucket, and are kept for all of it.
        if delay > DELAY_REST_MAX {
            prop_assert!(actual - delay <= tolerance - Duration::from_millis(125) + Duration::from_millis(1));
        }
    }

    /// Tasks with a key: they keep their order, and nobody keeps them for a rest.
    #[test]
    fn a_bucket_that_is_not_shorter_is_late_by_a_tenth_or_a_step(
        delay_ms in 0..=Bucket::LONGEST.delay_ms(), ns in 0..1_000_000u32,
    ) {
        let delay = Duration::from_millis(delay_ms.saturating_sub(1)) + Duration::from_nanos(ns.into());
        let actual = Duration::from_millis(Bucket::for_delay(delay).delay_ms());
        prop_assert!(actual >= delay);
        prop_assert!(actual - delay <= (delay / 10).max(Duration::from_millis(250)) + Duration::from_millis(1));
    }

    #[test]
    fn longer_delays_take_the_longest(extra_ms in 1u64..u64::from(u32::MAX)) {
        let delay = Duration::from_millis(Bucket::LONGEST.delay_ms() + extra_ms);
        prop_assert_eq!(Bucket::for_delay(delay), Bucket::LONGEST);
    }
}
