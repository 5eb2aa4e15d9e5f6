/**
 * Finds the record to blame when a step fails by the fault of its data: smaller and smaller steps, until one record fails alone. Pure.
 */

export interface Halving {
  /** How many records the next step may take. */
  readonly recordsMax: number;
  /**
   * A step of `size` records failed; `first` names its first record.
   *
   * `smaller`: try again with fewer. `again`: it was alone; once more, for the fault may have been a passing one. `condemned`: the same
   * record failed alone twice.
   */
  failed(size: number, first: string): "smaller" | "again" | "condemned";
  succeeded(): void;
}

export function createHalving(recordsMax: number): Halving {
  let allowed = recordsMax;
  let suspect: string | null = null;
  return {
    get recordsMax() {
      return allowed;
    },
    failed(size, first) {
      if (size > 1) {
        allowed = Math.ceil(size / 2);
        suspect = null;
        return "smaller";
      }
      allowed = 1;
      if (suspect === first) {
        suspect = null;
        return "condemned";
      }
      suspect = first;
      return "again";
    },
    /** Doubles: behind the bad record the steps are soon as large as before. */
    succeeded() {
      suspect = null;
      allowed = Math.min(recordsMax, allowed * 2);
    },
  };
}
