-- The recording of a dead letter's last run, where it was recorded (`host/src/capability/recording.rs`). It goes with the letter.
ALTER TABLE dead_letters ADD COLUMN recording bytea;
