package claims

import (
	"crypto/sha256"
	"encoding/hex"
)

// madeName is the name of the volume that is made for a claim. The same claim
// always has the same, so that one whose binding was lost finds its directory.
func madeName(claim Key) string {
	sum := sha256.Sum256([]byte(claim.String()))
	h := hex.EncodeToString(sum[:16])
	return "pvc-" + h[:8] + "-" + h[8:12] + "-" + h[12:16] + "-" + h[16:20] + "-" + h[20:]
}
