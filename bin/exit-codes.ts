/**
 * What the service ends with, by cause: a supervisor, or who reads its log, can tell them apart (docs/operations.md). A code keeps its meaning for good.
 */
import { Unavailable } from "../protocol/refusal.ts";
import { KeyringError } from "../store/keyring/keyring.ts";
import { StoodStill } from "../streams/runner-options.ts";

export const exitCodes = {
  /** It was asked to end, and everything under way has ended. */
  asked: 0,
  /** Neither the input's fault nor the world's; also what Node itself ends with. Started again, it goes on where it was. */
  bug: 1,
  /** Wrong words, a wrong environment, an address that is not to be had: started again, it is the same. */
  usage: 2,
  /** A server that it needs to start is away: start it again, later. */
  serverAway: 3,
  /** The keyring is not to be opened, or not the database's: an operator has to see to it (docs/custody.md). */
  keyring: 4,
  /** A consumer stood still, also after it was built anew: start it again. */
  stoodStill: 5,
  /** Asked to end, it did not within its time. Nothing is lost: whoever comes next publishes what was committed. */
  drainTooLong: 6,
} as const;

/** For what made it impossible to start, or to go on. */
export function exitCodeOf(error: unknown): number {
  if (error instanceof KeyringError) return exitCodes.keyring;
  if (error instanceof Unavailable) {
    return error.cause instanceof KeyringError ? exitCodes.keyring : exitCodes.serverAway;
  }
  if (error instanceof StoodStill) return exitCodes.stoodStill;
  if (error instanceof Error && "syscall" in error && error.syscall === "listen") return exitCodes.usage;
  return exitCodes.bug;
}
