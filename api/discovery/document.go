package discovery

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"io"
	"net/http"
	"strconv"
	"strings"
)

// document is an answer that never changes, kept compressed.
type document struct {
	contentType string
	etag        string // of the content, without quotes
	gz          func() io.Reader
}

// newDocument keeps a value as compressed JSON.
func newDocument(contentType string, value any) document {
	data, err := json.Marshal(value)
	if err != nil {
		panic(err) // the values are our own
	}
	var gz strings.Builder
	w := gzip.NewWriter(&gz)
	w.Write(data) // a builder takes everything
	w.Close()
	return document{contentType: contentType, etag: etagOf(bytes.NewReader(data)), gz: func() io.Reader { return strings.NewReader(gz.String()) }}
}

func etagOf(content io.Reader) string {
	sum := sha256.New()
	io.Copy(sum, content) // from memory
	return strings.ToUpper(hex.EncodeToString(sum.Sum(nil)))
}

// serve answers a GET or HEAD. Who does not accept gzip gets the content
// unpacked on the way.
func (d document) serve(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	h.Set("Content-Type", d.contentType)
	h.Set("ETag", strconv.Quote(d.etag))
	h.Add("Vary", "Accept")
	h.Add("Vary", "Accept-Encoding")
	h.Set("Cache-Control", "public")
	if hash := r.URL.Query().Get("hash"); hash != "" && hash == d.etag {
		h.Set("Cache-Control", "public, immutable, max-age=31536000")
	}
	if unchanged(r.Header.Get("If-None-Match"), d.etag) {
		w.WriteHeader(http.StatusNotModified)
		return
	}
	body := d.gz()
	if AcceptsGzip(r.Header.Get("Accept-Encoding")) {
		h.Set("Content-Encoding", "gzip")
	} else {
		unpacked, err := gzip.NewReader(body)
		if err != nil {
			panic(err) // we packed it
		}
		body = unpacked
	}
	if r.Method != http.MethodHead {
		io.Copy(w, body) // a client that went away needs no answer
	}
}

// unchanged says whether the client has the document with this entity tag.
func unchanged(ifNoneMatch, etag string) bool {
	for tag := range strings.SplitSeq(ifNoneMatch, ",") {
		tag = strings.TrimPrefix(strings.TrimSpace(tag), "W/")
		if tag == "*" || tag == strconv.Quote(etag) {
			return true
		}
	}
	return false
}

// AcceptsGzip says whether an Accept-Encoding header lets gzip through.
func AcceptsGzip(header string) bool {
	for clause := range strings.SplitSeq(header, ",") {
		coding, quality, _ := strings.Cut(clause, ";")
		if strings.TrimSpace(coding) != "gzip" {
			continue
		}
		_, q, given := strings.Cut(quality, "q=")
		weight, err := strconv.ParseFloat(strings.TrimSpace(q), 64)
		return !given || err == nil && weight > 0
	}
	return false
}
