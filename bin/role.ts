/** A part of the service that runs in a process, alone or with others. */
export interface Role {
  /** Where it answers over HTTP; undefined for parts that do not. */
  readonly url?: string;
  /** What keeps it from doing its work now; empty when it is ready. */
  missing?(): readonly string[];
  /** Takes nothing new, ends what is under way. */
  stop(): Promise<void>;
}
