/** One call with a bearer's token, and what is said when it is refused or not answered. */
import { callAsOperator, type OperatorAnswer, type OperatorCall } from "../operator-call.ts";
import { Late, NotSo } from "./terminal.ts";

/** The service reads dead letters for half a minute at most, and puts 10,000 back. */
const ANSWER_MS_MAX = 65_000;

/** The answer's JSON. Throws `NotSo` with what the service says, `Late`, and the signal's reason. */
export async function askedOf(
  { url, token }: { readonly url: string; readonly token: string },
  call: Pick<OperatorCall, "method" | "path" | "body">,
  signal: AbortSignal,
): Promise<OperatorAnswer["json"]> {
  const answer = await callAsOperator({ url, opsToken: token }, { ...call, msMax: ANSWER_MS_MAX, signal });
  signal.throwIfAborted();
  if (answer === null)
    throw new Late(
      `there is no answer from ${url}: see that the service listens there (for operators: that it has a token), and name its port with --url`,
    );
  const { status, json } = answer;
  if (status >= 400)
    throw new NotSo(`${json["code"]}: ${json["detail"]}${fieldOf(json)}: ${json["fix"] ?? json["title"]}`);
  return json;
}

function fieldOf({ field }: Readonly<Record<string, unknown>>): string {
  return typeof field === "string" && field !== "" ? ` (${field})` : "";
}
