/**
 * Who may be messaged, and so whose prekeys may be claimed: one answer for both, so that nobody can take keys for messages that would be
 * refused.
 */
import type { Agent } from "./agents.ts";

export function mayBeMessaged(target: Agent | undefined): boolean {
  return target?.status === "active";
}
