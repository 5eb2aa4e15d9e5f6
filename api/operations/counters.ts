/** What operations count; `bin/` turns the names into metrics. No agent's id ever is a label. */

export type Counter =
  /** Envelopes appended. */
  | "messages_sent"
  /** Envelopes that were accepted before: nothing was appended. */
  | "messages_repeated"
  /** Envelopes refused at ingress. */
  | "messages_refused"
  /** Items handed to polling clients. */
  | "items_received"
  /** Answers (acknowledged or refused) appended. */
  | "answers_accepted"
  /** Items that ended too many connections of their recipients. */
  | "items_set_aside"
  /** Retry requests appended. */
  | "retry_requests_sent"
  /** Reports of delivery that were lost, because Kafka did not take them: only a hint is missing. */
  | "delivery_reports_lost"
  /** Bundles handed out. */
  | "bundles_claimed"
  /** Bundles handed out without one-time prekeys because too many were claimed of the agent. */
  | "bundles_over_budget"
  /** Requests refused with a 4xx. */
  | "requests_refused"
  /** Requests answered with 503. */
  | "requests_unavailable"
  /** Calls that send, refused because too many were under way. */
  | "sends_shed"
  /** Requests that met a bug of ours. */
  | "requests_failed";

export type Counted = (counter: Counter, by: number) => void;
