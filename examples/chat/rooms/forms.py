"""The forms and their validation."""

from django import forms
from django.conf import settings
from django.template.defaultfilters import filesizeformat
from django.utils.text import slugify

from .models import Room

RESERVED_SLUGS = {"new"}


class RoomForm(forms.ModelForm):
    """Creates a room; its address is derived from its name."""

    class Meta:
        model = Room
        fields = ("name", "topic")

    def clean_name(self):
        name = self.cleaned_data["name"]
        slug = slugify(name)
        if len(slug) < 3:
            raise forms.ValidationError("The name needs at least three letters or digits.")
        if slug in RESERVED_SLUGS or Room.objects.filter(slug=slug).exists():
            raise forms.ValidationError("There is a room at this address already; choose another name.")
        self.instance.slug = slug
        return name


class UploadForm(forms.Form):
    """Uploads one file."""

    file = forms.FileField()

    def clean_file(self):
        file = self.cleaned_data["file"]
        if file.size > settings.UPLOAD_LIMIT:
            raise forms.ValidationError(f"The file is larger than {filesizeformat(settings.UPLOAD_LIMIT)}.")
        return file
