package objects

import (
	"crypto/sha256"
	"fmt"
	"strings"

	"k8s.io/apimachinery/pkg/types"
)

// NamedUID is the UID of an object that nobody creates, such as one that a file
// declares: the same at each start of the agent, so that what names it as its owner
// goes on doing so. names tell it from all others.
// Source: RFC 9562, UUID version 8.
func NamedUID(names ...string) types.UID {
	sum := sha256.Sum256([]byte(strings.Join(names, "\x00")))
	u := sum[:16]
	u[6], u[8] = u[6]&0x0f|0x80, u[8]&0x3f|0x80
	return types.UID(fmt.Sprintf("%x-%x-%x-%x-%x", u[:4], u[4:6], u[6:8], u[8:10], u[10:]))
}
