package rest

import (
	"mime"
	"net/http"
	"strings"

	"github.com/munnerz/goautoneg"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// The media types that are spoken, in both directions.
const (
	mediaJSON     = "application/json"
	mediaYAML     = "application/yaml"
	mediaProtobuf = "application/vnd.kubernetes.protobuf"
)

const acceptedMedia = mediaJSON + ", " + mediaYAML + ", " + mediaProtobuf

// form is the shape in which an answer was asked for.
type form struct {
	media string // one of the three
	as    string // "", Table, PartialObjectMetadata or PartialObjectMetadataList
	// version of as: v1, or v1beta1, which differs in name only.
	version string
}

// negotiate chooses, of what an Accept header lists, the first in order of
// preference that can be served. Nothing listed is JSON. protobuf says that there
// is such a form.
func negotiate(accept string, protobuf func() bool) (form, error) {
	switch strings.TrimSpace(accept) {
	case "", mediaJSON: // most often
		return form{media: mediaJSON}, nil
	}
	for _, clause := range goautoneg.ParseAccept(accept) {
		f := form{media: clause.Type + "/" + clause.SubType}
		switch f.media {
		case "*/*", "application/*":
			f.media = mediaJSON
		case mediaJSON, mediaYAML:
		case mediaProtobuf:
			if !protobuf() {
				continue
			}
		default:
			continue
		}
		if clause.Q <= 0 {
			continue
		}
		f.as, f.version = clause.Params["as"], clause.Params["v"]
		if f.as == "" {
			return form{media: f.media}, nil
		}
		if clause.Params["g"] != metav1.GroupName || f.version != "v1" && f.version != "v1beta1" {
			continue
		}
		switch f.as {
		case "Table":
			if f.media == mediaProtobuf {
				continue // its cells are of any type
			}
			return f, nil
		case "PartialObjectMetadata", "PartialObjectMetadataList":
			return f, nil
		}
	}
	return form{media: mediaJSON}, statusError(http.StatusNotAcceptable, metav1.StatusReasonNotAcceptable,
		"only the following media types are accepted: "+acceptedMedia)
}

// bodyMedia returns in which of the three a body is written; JSON if that is
// not said.
func bodyMedia(contentType string) (string, error) {
	if contentType == "" {
		return mediaJSON, nil
	}
	media, _, err := mime.ParseMediaType(contentType)
	switch {
	case err != nil:
	case media == mediaJSON || media == mediaYAML || media == mediaProtobuf:
		return media, nil
	}
	return "", unsupportedMedia(acceptedMedia)
}

func unsupportedMedia(accepted string) error {
	return statusError(http.StatusUnsupportedMediaType, metav1.StatusReasonUnsupportedMediaType,
		"the body of the request was in an unknown format - accepted media types include: "+accepted)
}

// statusError is an error that becomes a Status as it is.
func statusError(code int, reason metav1.StatusReason, message string) error {
	return &apierrors.StatusError{ErrStatus: metav1.Status{
		Status: metav1.StatusFailure, Code: int32(code), Reason: reason, Message: message,
	}}
}
