package rest

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
)

// maxParts is how many elements and fields a body may have. An element of two
// bytes can become a container of a thousand in memory; the biggest objects that
// are of use here have a few thousand parts.
const maxParts = 50_000

// boundParts refuses a body that would unfold to very much more than its size.
func boundParts(data []byte, media string) error {
	if len(data) < maxParts { // it cannot have so many
		return nil
	}
	parts := 0
	switch {
	case media == mediaProtobuf:
		parts, _ = messageParts(data[min(len(data), len(protobufPrefix)):], 0)
	case media == mediaYAML && !json.Valid(data):
		// Where its strings end is for a parser to say: too many are counted.
		parts = bytes.Count(data, []byte(",")) + bytes.Count(data, []byte("{")) + bytes.Count(data, []byte("- ")) + bytes.Count(data, []byte("-\n"))
	default:
		parts = textParts(data)
	}
	if parts > maxParts {
		return apierrors.NewRequestEntityTooLargeError(fmt.Sprintf("the body has more than %d elements and fields", maxParts))
	}
	return nil
}

// textParts counts commas and braces outside of strings.
func textParts(text []byte) int {
	parts, quoted := 0, false
	for i := 0; i < len(text); i++ {
		switch c := text[i]; {
		case quoted && c == '\\':
			i++
		case c == '"':
			quoted = !quoted
		case !quoted && (c == ',' || c == '{'):
			parts++
		}
	}
	return parts
}

// messageParts counts the fields of a protobuf message and of the messages in
// it. What a field holds is not said: whatever can be read as a message counts
// as one, which text can almost never. ok is false if data is no message.
func messageParts(data []byte, depth int) (parts int, ok bool) {
	const deepest = 12 // as deep as objects are, envelope included
	for len(data) > 0 && parts <= maxParts {
		tag, n := binary.Uvarint(data)
		if n <= 0 || tag>>3 == 0 {
			return 0, false
		}
		data = data[n:]
		parts++
		switch tag & 7 {
		case 0: // varint
			if _, n = binary.Uvarint(data); n <= 0 {
				return 0, false
			}
		case 1: // 64 bits
			n = 8
		case 5: // 32 bits
			n = 4
		case 2: // as long as it says
			length, m := binary.Uvarint(data)
			if m <= 0 || length > uint64(len(data)-m) {
				return 0, false
			}
			if depth < deepest {
				if inside, is := messageParts(data[m:m+int(length)], depth+1); is {
					parts += inside
				}
			}
			n = m + int(length)
		default:
			return 0, false
		}
		if n > len(data) {
			return 0, false
		}
		data = data[n:]
	}
	return parts, true
}
