/** API4 to API7 of the matrix in tests/owasp: costs, functions, flows, and addresses that the service would call. */
import { runCells } from "../../tests/owasp/run-cells.ts";

runCells("API4", "API5", "API6", "API7");
