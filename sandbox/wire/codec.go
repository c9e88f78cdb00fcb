package wire

import (
	"encoding/binary"
	"errors"
)

// ErrMalformed is returned for a body that breaks off inside a field or
// announces more than it holds.
var ErrMalformed = errors.New("malformed message body")

// A fielder reads or writes its fields in order. One method serves both
// directions, so the two cannot differ.
type fielder interface{ fields(c *codec) }

// codec encodes by appending to buf, or decodes by consuming it.
type codec struct {
	buf      []byte
	decoding bool
	err      error
}

// Marshal encodes a message body.
func Marshal(m fielder) []byte {
	c := codec{buf: make([]byte, 0, 512)}
	m.fields(&c)
	return c.buf
}

// Unmarshal decodes a message body into m.
func Unmarshal(b []byte, m fielder) error {
	c := codec{buf: b, decoding: true}
	m.fields(&c)
	return c.err
}

// take returns the next n bytes, or nil at the clean end of the body (the
// writer did not know the field) and after an error.
func (c *codec) take(n int) []byte {
	if c.err != nil || len(c.buf) == 0 && n > 0 {
		return nil
	}
	if n < 0 || n > len(c.buf) {
		c.err = ErrMalformed
		return nil
	}
	b := c.buf[:n:n]
	c.buf = c.buf[n:]
	return b
}

// room returns buf with place for n more bytes. What it has outgrown is cleared:
// variables may come from a Secret.
func (c *codec) room(n int) []byte {
	if old := c.buf; cap(old)-len(old) < n {
		c.buf = append(make([]byte, 0, max(2*cap(old), len(old)+n)), old...)
		clear(old)
	}
	return c.buf
}

func (c *codec) u32(v *uint32) {
	if !c.decoding {
		c.buf = binary.LittleEndian.AppendUint32(c.room(4), *v)
	} else if b := c.take(4); b != nil {
		*v = binary.LittleEndian.Uint32(b)
	}
}

func (c *codec) u64(v *uint64) {
	if !c.decoding {
		c.buf = binary.LittleEndian.AppendUint64(c.room(8), *v)
	} else if b := c.take(8); b != nil {
		*v = binary.LittleEndian.Uint64(b)
	}
}

func (c *codec) int(v *int) {
	u := uint64(*v)
	c.u64(&u)
	*v = int(u)
}

func (c *codec) i64(v *int64) {
	u := uint64(*v)
	c.u64(&u)
	*v = int64(u)
}

func (c *codec) bool(v *bool) {
	if !c.decoding {
		b := byte(0)
		if *v {
			b = 1
		}
		c.buf = append(c.room(1), b)
	} else if b := c.take(1); b != nil {
		*v = b[0] != 0
	}
}

func (c *codec) bytes(v *[]byte) {
	n := uint32(len(*v))
	c.u32(&n)
	if !c.decoding {
		c.buf = append(c.room(len(*v)), *v...)
	} else if n > 0 {
		if len(c.buf) == 0 {
			c.err = ErrMalformed
			return
		}
		*v = c.take(int(n))
	}
}

func (c *codec) str(v *string) {
	n := uint32(len(*v))
	c.u32(&n)
	if !c.decoding {
		c.buf = append(c.room(len(*v)), *v...)
	} else if n > 0 {
		if len(c.buf) == 0 {
			c.err = ErrMalformed
			return
		}
		*v = string(c.take(int(n)))
	}
}

// list reads or writes a slice: its length, then each element by one. No element
// is shorter than a byte, so a length beyond the rest of the body is malformed.
func list[T any](c *codec, v *[]T, one func(*T)) {
	n := uint32(len(*v))
	c.u32(&n)
	if c.decoding {
		if c.err != nil || int64(n) > int64(len(c.buf)) {
			c.err = ErrMalformed
			return
		}
		if n > 0 {
			*v = make([]T, n)
		}
	}
	for i := range *v {
		one(&(*v)[i])
		if c.err != nil {
			return
		}
	}
}

func (c *codec) strs(v *[]string) { list(c, v, c.str) }
func (c *codec) u32s(v *[]uint32) { list(c, v, c.u32) }
func (c *codec) kvs(v *[]KV) {
	list(c, v, func(kv *KV) { c.str(&kv.Key); c.str(&kv.Value) })
}
