-- How a host does, as it says with each report: rates and latencies of the last seconds, memory. Absent from hosts before this.
ALTER TABLE hosts ADD COLUMN figures jsonb;
